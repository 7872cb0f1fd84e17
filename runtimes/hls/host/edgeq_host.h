/* What a test program sees of a dataflow region on the host: the tokens that each function wrote, and how full the
 * streams became.
 */
#ifndef EDGEQ_HOST_H
#define EDGEQ_HOST_H

#include "hls_stream.h"

namespace edgeq_host {

typedef void (*watcher)(int number, const long long *tokens, size_t count);

struct filling {
    std::string name;
    size_t depth, peak, left;
};

inline watcher &watching()
{
    static watcher the = nullptr;
    return the;
}

/* How full each stream of the last run became. */
inline std::vector<filling> &fillings()
{
    static std::vector<filling> the;
    return the;
}

template <class T> void watch(int number, const hls::stream<T> &stream)
{
    if (!watching() || scheduler().bounded) {
        return;
    }
    std::vector<long long> tokens(stream.size());
    for (size_t k = 0; k < tokens.size(); k++) {
        tokens[k] = (long long)stream.peek(k).value;
    }
    watching()(number, tokens.data(), tokens.size());
}

/* At the end of a region: run the fibers, and note how full the streams became. */
inline void finish()
{
    run_scheduler &the = scheduler();
    if (the.bounded) {
        the.stuck = false;
        the.cycle.clear();
        the.run();
    }
    fillings().clear();
    for (channel *c : the.channels) {
        fillings().push_back({c->name, c->capacity, c->peak, c->count});
    }
    the.channels.clear();
}

} // namespace edgeq_host

#endif
