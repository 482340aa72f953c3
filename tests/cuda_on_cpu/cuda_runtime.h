// Runs CUDA kernels on the CPU, for machines without a GPU: each thread of a block is a fiber that runs from one __syncthreads() to
// the next, so a barrier that is missing shows as a wrong result. Only what models/ops/csrc needs.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
using std::max;
using std::min;

struct dim3 {
  int64_t x, y, z;
  dim3(int64_t x = 1, int64_t y = 1, int64_t z = 1) : x(x), y(y), z(z) {}
};
struct __align__(8) uint2 {
  uint32_t x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float atomicAdd(float* p, float v) { return (*p += v) - v; }

using __half = _Float16;
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float v) {
    uint32_t u;
    memcpy(&u, &v, 4);
    bits = v != v ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;  // to nearest, ties to even
  }
  explicit operator float() const {
    uint32_t u = uint32_t(bits) << 16;
    float v;
    memcpy(&v, &u, 4);
    return v;
  }
};

enum cudaError_t { cudaSuccess };
using cudaStream_t = void*;
struct cudaFuncAttributes {};
inline const char* cudaGetErrorString(cudaError_t) { return "error"; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
template <typename... T>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)(T...)) { return cudaSuccess; }

inline dim3 blockIdx, threadIdx;
namespace on_cpu {
inline ucontext_t scheduler, *running;
inline std::function<void()> kernel;
inline bool ended;

inline void fiber() {
  kernel();
  ended = true;
  swapcontext(running, &scheduler);
}

inline void launch(dim3 grid, unsigned threads, std::function<void()> f) {
  kernel = std::move(f);
  std::vector<ucontext_t> fibers(threads);
  std::vector<std::vector<char>> stacks(threads, std::vector<char>(1 << 16));
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        std::vector<unsigned> alive(threads);
        for (unsigned t = 0; t < threads; ++t) {
          alive[t] = t;
          getcontext(&fibers[t]);
          fibers[t].uc_stack.ss_sp = stacks[t].data();
          fibers[t].uc_stack.ss_size = stacks[t].size();
          makecontext(&fibers[t], fiber, 0);
        }
        while (!alive.empty())
          alive.erase(std::remove_if(alive.begin(), alive.end(),
                                     [&](unsigned t) {
                                       threadIdx = dim3(t, 0, 0);
                                       running = &fibers[t];
                                       ended = false;
                                       swapcontext(&scheduler, running);
                                       return ended;
                                     }),
                      alive.end());
      }
}
}  // namespace on_cpu
#define __syncthreads() swapcontext(on_cpu::running, &on_cpu::scheduler)
