/* Bits of a weight: 8 wherever the model includes no kernels for fewer before those of its layers. */
#ifndef EDGEQ_PACKED_H
#define EDGEQ_PACKED_H

#if defined(EDGEQ_TOTAL_H) || defined(EDGEQ_LEVELS_H)
#define edgeq_bits(l) (l)->bits
#else
#define edgeq_bits(l) 8
#endif

#endif
