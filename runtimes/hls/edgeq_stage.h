/* Functions of a dataflow region. For synthesis, and for the C simulation of the vendor's tool, the macros leave plain
 * calls; on the host (EDGEQ_HOST) a function may run as a fiber, and what it wrote
 * can be watched.
 */
#ifndef EDGEQ_STAGE_H
#define EDGEQ_STAGE_H

#include "ap_axi_sdata.h"
#include "ap_fixed.h"
#include "ap_int.h"
#include "hls_stream.h"

#ifdef EDGEQ_HOST
#include "edgeq_host.h"
#define EDGEQ_STAGE(name, ...) edgeq_host::scheduler().add(name, [&] { __VA_ARGS__; })
#define EDGEQ_ENDS(stream, from, to, tokens) stream.state.joins(from, to, tokens)
#define EDGEQ_DONE(number, stream) edgeq_host::watch(number, stream)
#define EDGEQ_RUN() edgeq_host::finish()
#else
#define EDGEQ_STAGE(name, ...) __VA_ARGS__
#define EDGEQ_ENDS(stream, from, to, tokens)
#define EDGEQ_DONE(number, stream)
#define EDGEQ_RUN()
#endif

#endif
