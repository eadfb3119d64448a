/* The instructions that a level may use: all functions between TARGET and TARGET_END may.
 *
 * GCC and clang each have a pragma for that, and ignore the other's. Headers that are not the
 * level's own come before it, so that no function of the system becomes one of the level. */
#ifndef LLMCLI_TARGET_H
#define LLMCLI_TARGET_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET(features)                                                                           \
    PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END PRAGMA(clang attribute pop)
#else
#define TARGET(features) PRAGMA(GCC target(features))
#define TARGET_END
#endif

#endif
