/* Streams for C simulation on the host, in two ways, by edgeq_host::scheduler().bounded:
 *
 * - plain: every function of a dataflow region runs to its end in turn, streams hold whatever is written;
 * - bounded: every function is a fiber, a stream holds `capacity` tokens, and who finds it full or empty waits. Whether
 *   such a network gets stuck depends on the capacities alone, not on who runs when (a process network with blocking reads
 *   and writes), so one run that ends proves the depths for every timing. A run that is stuck names the cycle of waits;
 *   with `growing` it enlarges by one the full stream in the cycle whose whole frame has the fewest bits, and goes on: what
 *   a branch must keep lies where it takes the least memory (behind a convolution that has fewer results than operands). The
 *   depths that are found suffice, and of none can be one less alone.
 */
#ifndef EDGEQ_HOST_HLS_STREAM_H
#define EDGEQ_HOST_HLS_STREAM_H

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <setjmp.h>
#include <string>
#include <ucontext.h>
#include <vector>

namespace edgeq_host {

/* To another stack, too: where builds are hardened (_FORTIFY_SOURCE), glibc's own _longjmp takes that for a fault. */
#ifdef __GLIBC__
extern "C" void jump_to(struct __jmp_buf_tag *place, int value) __asm__("_longjmp") __attribute__((noreturn));
#else
inline void jump_to(jmp_buf place, int value)
{
    _longjmp(place, value);
}
#endif

struct fiber;

/* What the scheduler knows of a stream. */
struct channel {
    std::string name;
    size_t capacity = 0, count = 0, peak = 0, bits = 0, tokens = 1; /* tokens: of a frame */
    std::string writer_name, reader_name;
    fiber *reader = nullptr, *writer = nullptr;

    /* Which functions write and read it: nobody may have done so yet when a cycle of waits is sought. */
    void joins(const char *from, const char *to, size_t of_frame)
    {
        tokens = of_frame;
        writer_name = from;
        reader_name = to;
    }
};

struct fiber {
    std::string name;
    std::function<void()> work;
    std::unique_ptr<char[]> stack;
    ucontext_t start;
    jmp_buf place;
    bool is_started = false, is_done = false;
    channel *waits_for = nullptr;
    bool wants_to_read = false;
};

class run_scheduler {
public:
    bool bounded = false, growing = false, stuck = false;
    std::string cycle; /* of the first deadlock that was not grown away */
    std::vector<channel *> channels;

    void add(const char *name, std::function<void()> work)
    {
        if (!bounded) {
            work();
            return;
        }
        fibers.emplace_back(new fiber);
        fibers.back()->name = name;
        fibers.back()->work = std::move(work);
        ready.push_back(fibers.back().get());
    }

    /* Run all fibers to their end, or until nobody can go on. */
    void run()
    {
        for (channel *c : channels) {
            c->writer = named(c->writer_name);
            c->reader = named(c->reader_name);
        }
        while (!ready.empty() || resolved()) {
            current = ready.front();
            ready.pop_front();
            if (_setjmp(home) == 0) {
                resume(current);
            }
            current = nullptr;
        }
        fibers.clear();
    }

    void wait(channel &c, bool to_read)
    {
        fiber *self = current;
        self->waits_for = &c;
        self->wants_to_read = to_read;
        if (_setjmp(self->place) == 0) {
            jump_to(home, 1);
        }
    }

    void wake(fiber *waiting, channel &c, bool to_read)
    {
        if (waiting && waiting->waits_for == &c && waiting->wants_to_read == to_read) {
            waiting->waits_for = nullptr;
            ready.push_back(waiting);
        }
    }

    fiber *current = nullptr;

private:
    static const size_t STACK_BYTES = 16u << 20; /* untouched pages cost nothing */
    std::vector<std::unique_ptr<fiber>> fibers;
    std::deque<fiber *> ready;
    jmp_buf home;

    void resume(fiber *next)
    {
        if (next->is_started) {
            jump_to(next->place, 1);
        }
        next->is_started = true;
        next->stack.reset(new char[STACK_BYTES]);
        getcontext(&next->start);
        next->start.uc_stack.ss_sp = next->stack.get();
        next->start.uc_stack.ss_size = STACK_BYTES;
        next->start.uc_link = nullptr;
        makecontext(&next->start, (void (*)())enter, 0);
        setcontext(&next->start);
    }

    static void enter();

    fiber *named(const std::string &name) const
    {
        for (auto &each : fibers) {
            if (each->name == name) {
                return each.get();
            }
        }
        return nullptr;
    }

    fiber *next_of(const fiber *waiting) const
    {
        return waiting->wants_to_read ? waiting->waits_for->writer : waiting->waits_for->reader;
    }

    /* Whether growing a stream lets somebody go on; otherwise, if anybody waits, the run is stuck. */
    bool resolved()
    {
        std::vector<fiber *> path;
        for (auto &each : fibers) {
            if (!each->is_done && each->waits_for) {
                path.push_back(each.get());
                break;
            }
        }
        if (path.empty()) {
            return false;
        }
        size_t first = 0;
        for (bool closed = false; !closed;) {
            fiber *next = next_of(path.back());
            if (!next || next->is_done || !next->waits_for) {
                return give_up(path, 0); /* waits for somebody who is not there */
            }
            for (first = 0; first < path.size() && path[first] != next; first++) {
            }
            closed = first < path.size();
            if (!closed) {
                path.push_back(next);
            }
        }
        channel *cheapest = nullptr;
        for (size_t k = first; k < path.size(); k++) {
            channel *c = path[k]->waits_for;
            if (!path[k]->wants_to_read && (!cheapest || c->bits * c->tokens < cheapest->bits * cheapest->tokens)) {
                cheapest = c;
            }
        }
        if (!growing || !cheapest) {
            return give_up(path, first);
        }
        cheapest->capacity++;
        wake(cheapest->writer, *cheapest, false);
        return true;
    }

    bool give_up(const std::vector<fiber *> &path, size_t first)
    {
        stuck = true;
        for (size_t k = first; k < path.size(); k++) {
            const channel *c = path[k]->waits_for;
            cycle += path[k]->name + (path[k]->wants_to_read ? " waits for a token of " : " finds no room in ") + c->name +
                     " (depth " + std::to_string(c->capacity) + ")\n";
        }
        return false;
    }
};

inline run_scheduler &scheduler()
{
    static run_scheduler the;
    return the;
}

inline void run_scheduler::enter()
{
    fiber *self = scheduler().current;
    self->work();
    self->is_done = true;
    jump_to(scheduler().home, 1);
}

} // namespace edgeq_host

namespace hls {

template <class T, int DEPTH = 0> class stream;

template <class T> class stream<T, 0> {
public:
    edgeq_host::channel state;

    explicit stream(const char *name = "stream") { state.name = name; }
    stream(const stream &) = delete;

    T read()
    {
        auto &scheduler = edgeq_host::scheduler();
        if (scheduler.current) {
            while (tokens.empty()) {
                scheduler.wait(state, true);
            }
        }
        if (tokens.empty()) {
            std::fprintf(stderr, "a read from the empty stream %s\n", state.name.c_str());
            std::abort();
        }
        const T token = tokens.front();
        tokens.pop_front();
        state.count = tokens.size();
        scheduler.wake(state.writer, state, false);
        return token;
    }

    void write(const T &token)
    {
        auto &scheduler = edgeq_host::scheduler();
        if (scheduler.current) {
            while (state.capacity && tokens.size() >= state.capacity) {
                scheduler.wait(state, false);
            }
        }
        tokens.push_back(token);
        state.count = tokens.size();
        state.peak = state.count > state.peak ? state.count : state.peak;
        scheduler.wake(state.reader, state, true);
    }

    bool empty() const { return tokens.empty(); }
    size_t size() const { return tokens.size(); }
    const T &peek(size_t place) const { return tokens[place]; } /* for simulation alone */

private:
    std::deque<T> tokens;
};

template <class T, int DEPTH> class stream : public stream<T, 0> {
public:
    explicit stream(const char *name = "stream") : stream<T, 0>(name)
    {
        this->state.capacity = DEPTH;
        this->state.bits = T::width;
        edgeq_host::scheduler().channels.push_back(&this->state);
    }
};

} // namespace hls

#endif
