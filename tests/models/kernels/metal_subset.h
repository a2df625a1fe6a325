// The part of Metal's language that our kernels use, for a C++ compiler on a machine without a GPU.
//
// Each thread of a group is a coroutine. They take turns; a barrier or a sum over a SIMD group passes the turn on
// until all members have come to it. So a barrier that is missing is noticed: others have not written yet.

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

typedef unsigned int uint;
struct uint3 { uint x, y, z; };

#define device
#define constant
#define threadgroup static

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

struct bfloat16_t {
    uint16_t bits;
    bfloat16_t() = default;
    explicit bfloat16_t(float value) {
        uint32_t wide;
        memcpy(&wide, &value, 4);
        const bool is_nan = value != value;
        bits = is_nan ? 0x7fc0 : uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
    }
    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float value;
        memcpy(&value, &wide, 4);
        return value;
    }
};

typedef _Float16 float16_t;

namespace precise {
inline float rsqrt(float x) { return float(1.0 / sqrt(double(x))); }
inline float exp(float x) { return expf(x); }
}  // namespace precise

namespace shim {

constexpr uint MOST_THREADS = 1024;
constexpr uint SIMD_WIDTH = 32;
constexpr size_t STACK_BYTES = 32768;

struct Barrier { uint arrived, generation; };

struct Group {
    ucontext_t scheduler, threads[MOST_THREADS];
    bool is_done[MOST_THREADS];
    Barrier all, simd[MOST_THREADS / SIMD_WIDTH];
    float summands[MOST_THREADS];
    uint position, size, current;
};

inline Group group;
inline char* stacks;

inline void pass_on() { swapcontext(&group.threads[group.current], &group.scheduler); }

inline void wait(Barrier& barrier, uint members) {
    const uint generation = barrier.generation;
    if (++barrier.arrived == members) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    const uint current = group.current;
    while (barrier.generation == generation) {
        pass_on();
        group.current = current;
    }
}

inline uint simd_start() { return group.current / SIMD_WIDTH * SIMD_WIDTH; }

inline uint simd_members() {
    const uint left = group.size - simd_start();
    return left < SIMD_WIDTH ? left : SIMD_WIDTH;
}

// Run every thread of a group to its end, the first or the last one first.
inline void run_group(void (*start)(), bool is_backwards) {
    if (!stacks) stacks = (char*)malloc(MOST_THREADS * STACK_BYTES);
    group.all = {};
    memset(group.simd, 0, sizeof(group.simd));
    for (uint i = 0; i < group.size; ++i) {
        ucontext_t& thread = group.threads[i];
        getcontext(&thread);
        thread.uc_stack.ss_sp = stacks + i * STACK_BYTES;
        thread.uc_stack.ss_size = STACK_BYTES;
        thread.uc_link = nullptr;
        makecontext(&thread, start, 0);
        group.is_done[i] = false;
    }
    for (uint left = group.size; left;) {
        for (uint turn = 0; turn < group.size; ++turn) {
            const uint i = is_backwards ? group.size - 1 - turn : turn;
            if (group.is_done[i]) continue;
            group.current = i;
            swapcontext(&group.scheduler, &group.threads[i]);
            left -= group.is_done[i];
        }
    }
}

inline void finish() {
    group.is_done[group.current] = true;
    pass_on();
}

}  // namespace shim

inline void threadgroup_barrier(mem_flags) { shim::wait(shim::group.all, shim::group.size); }

inline float simd_sum(float value) {
    using namespace shim;
    const uint start = simd_start(), members = simd_members();
    Barrier& barrier = group.simd[start / SIMD_WIDTH];
    group.summands[group.current] = value;
    wait(barrier, members);
    float sums[SIMD_WIDTH] = {};
    memcpy(sums, group.summands + start, members * sizeof(float));
    for (uint half = SIMD_WIDTH / 2; half; half /= 2) {
        for (uint i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    wait(barrier, members);
    return sums[0];
}
