/* What each processor says of its instructions, and each system of its memory. */
#define _GNU_SOURCE
#include <stddef.h>

#include "native.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

/* -- instructions ---------------------------------------------------------------------------- */

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

/* Registers that the system saves for a process, as bits of XCR0. */
enum { SAVES_AVX = 0x6, SAVES_AVX512 = 0xe6 };

struct features {
    unsigned ecx1, ebx7, ecx7, edx7, eax7_1; /* of CPUID's leaves 1, 7 and 7.1 */
    unsigned saved;
};

/* Compilers have a builtin for this, but not each of them knows every name, or has what it calls. */
static struct features features(void)
{
    struct features f = {0};
    unsigned a = 0, b, c, d;
    if (__get_cpuid(1, &a, &b, &f.ecx1, &d) && f.ecx1 >> 27 & 1) /* OSXSAVE */
        __asm__ volatile("xgetbv" : "=a"(f.saved), "=d"(d) : "c"(0));
    __get_cpuid_count(7, 0, &a, &f.ebx7, &f.ecx7, &f.edx7);
    if (a >= 1)
        __get_cpuid_count(7, 1, &f.eax7_1, &b, &c, &d);
    return f;
}

static int has(unsigned bits, int bit)
{
    return bits >> bit & 1;
}

int has_avx2(void)
{
    struct features f = features();
    return (f.saved & SAVES_AVX) == SAVES_AVX && has(f.ecx1, 12) /* FMA */ &&
           has(f.ecx1, 28) /* AVX */ && has(f.ecx1, 29) /* F16C */ && has(f.ebx7, 5) /* AVX2 */ &&
           has(f.ebx7, 8) /* BMI2 */;
}

int has_avxvnni(void)
{
    return has_avx2() && has(features().eax7_1, 4);
}

int has_avx512(void)
{
    struct features f = features();
    return has_avx2() && (f.saved & SAVES_AVX512) == SAVES_AVX512 && has(f.ebx7, 16) /* F */ &&
           has(f.ebx7, 17) /* DQ */ && has(f.ebx7, 30) /* BW */ && has(f.ebx7, 31) /* VL */ &&
           has(f.ecx7, 11) /* VNNI */;
}

/* Linux lets a process use the tiles once it has asked. */
int has_amx(void)
{
#if defined(__linux__)
    static int known = -1;
    if (known < 0) {
        struct features f = features();
        int there = has_avx512() && has(f.edx7, 22) /* AMX-BF16 */ && has(f.edx7, 24) /* TILE */ &&
                    has(f.edx7, 25) /* INT8 */ && has(f.eax7_1, 5) /* AVX512-BF16 */;
        const long request_permission = 0x1023, tile_data = 18;
        known = there && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    }
    return known;
#else
    return 0;
#endif
}

#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

int has_dot_product(void)
{
#if defined(__linux__)
    const unsigned long dot_product = 1ul << 20; /* HWCAP_ASIMDDP */
    return (getauxval(AT_HWCAP) & dot_product) != 0;
#else
    return 1; /* every processor that macOS runs on has it */
#endif
}
#endif

/* -- memory ---------------------------------------------------------------------------------- */

#if defined(_WIN32)
void *pages_new(size_t nbytes)
{
    return VirtualAlloc(NULL, nbytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void pages_free(void *memory, size_t nbytes)
{
    (void)nbytes;
    VirtualFree(memory, 0, MEM_RELEASE);
}

static uintptr_t page_size(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

static void forget(void *first, size_t nbytes)
{
    VirtualAlloc(first, nbytes, MEM_RESET, PAGE_READWRITE);
}
#else
void *pages_new(size_t nbytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    void *memory = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void pages_free(void *memory, size_t nbytes)
{
    munmap(memory, nbytes);
}

static uintptr_t page_size(void)
{
    return (uintptr_t)sysconf(_SC_PAGESIZE);
}

static void forget(void *first, size_t nbytes)
{
    madvise(first, nbytes, MADV_DONTNEED);
}
#endif

void pages_give_back(char *from, char *to)
{
    const uintptr_t page = page_size();
    uintptr_t first = ((uintptr_t)from + page - 1) / page * page, last = (uintptr_t)to / page * page;
    if (first < last)
        forget((void *)first, last - first);
}
