/* Words of an AXI stream for C simulation on the host: the fields that generated designs use. */
#ifndef EDGEQ_HOST_AP_AXI_SDATA_H
#define EDGEQ_HOST_AP_AXI_SDATA_H

#include "ap_int.h"

template <int D, int U, int TI, int TD> struct ap_axis {
    static_assert(U == 0 && TI == 0 && TD == 0, "side channels are not in this subset");
    ap_int<D> data;
    ap_uint<(D + 7) / 8> keep, strb;
    ap_uint<1> last;
};

#endif
