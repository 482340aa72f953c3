// What the operators share. Everything is plain C at the boundary, so the library fits any version of PyTorch and Python:
// a function takes the device, the stream, the type (0 float32, 1 float16, 2 bfloat16), pointers and sizes (every number an int64_t),
// launches its kernel and returns null or what went wrong. Arithmetic is in float32 for every type.
#pragma once
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Calls f(T{}) with the type of that number.
template <typename F>
const char* with_type(int64_t type, F f) {
  if (type == 0) return f(float{});
  if (type == 1) return f(__half{});
  if (type == 2) return f(__nv_bfloat16{});
  return "unknown type";
}

inline const char* text(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

__device__ inline float4 zero4() { return make_float4(0.f, 0.f, 0.f, 0.f); }

// Four neighbouring values in one access; p must be aligned to four values.
__device__ inline float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }

template <typename T>
__device__ float4 load4(const T* p) {
  static_assert(sizeof(T) == 2, "float16 or bfloat16");
  uint2 raw = *reinterpret_cast<const uint2*>(p);
  const T* v = reinterpret_cast<const T*>(&raw);
  return make_float4(float(v[0]), float(v[1]), float(v[2]), float(v[3]));
}

// Channels c .. c+3 of a pixel with C channels at p, zero past the last. ALIGNED: C is a multiple of 4 and p aligned to four values.
template <bool ALIGNED, typename T>
__device__ float4 load_channels(const T* p, int c, int C) {
  if (ALIGNED) return c < C ? load4(p + c) : zero4();
  return make_float4(c < C ? float(p[c]) : 0.f, c + 1 < C ? float(p[c + 1]) : 0.f, c + 2 < C ? float(p[c + 2]) : 0.f,
                     c + 3 < C ? float(p[c + 3]) : 0.f);
}

inline bool aligned4(const void* p, int64_t C, size_t value_size) {
  return C % 4 == 0 && reinterpret_cast<uintptr_t>(p) % (4 * value_size) == 0;
}
