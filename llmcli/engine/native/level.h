/* The kernels, for the level that the file including this has named. */

#include "kernels.h"
#include "vector.h"

#include "linear.h"
#include "rows.h"
#include "sample.h"

#include "attention.h"

#define KERNELS(level_name)                                                                        \
    .name = level_name, .norm = norm, .quantize = quantize, .product = product, .finish = finish,  \
    .append = append, .attend = attend, .cap = cap, .slice = slice_of,  \
    .tempered = tempered,                                                                          \
    .weigh = weigh, .weigh_from = weigh_from, .weigh_from_each = weigh_from_each,                  \
    .find_between = find_between
