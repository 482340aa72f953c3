// L2 norm over the channels, forward and backward. One thread per pixel; x may have any strides, the rest is contiguous.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;

struct Map {
  int C, H, W;
  int64_t sb, sc, sy, sx; // strides, in values
};

template <typename T>
__device__ float norm(const T* from, const Map& m) {
  float sum = 0.f;
  for (int c = 0; c < m.C; ++c) {
    const float v = float(from[c * m.sc]);
    sum += v * v;
  }
  return sqrtf(sum);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) forward(const T* __restrict__ x, T* __restrict__ out, Map m, int64_t pixels) {
  const int64_t index = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= pixels) return;
  const int64_t b = index / (int64_t(m.H) * m.W), column = index % m.W, row = index / m.W % m.H;
  out[index] = T(norm(x + b * m.sb + row * m.sy + column * m.sx, m));
}

// The norm is computed again: cheaper than rounding it to T and reading it back. Where it is zero, so is the gradient.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    backward(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x, Map m, int64_t pixels) {
  const int64_t index = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= pixels) return;
  const int64_t plane = int64_t(m.H) * m.W, b = index / plane, column = index % m.W, row = index / m.W % m.H;
  const T* from = x + b * m.sb + row * m.sy + column * m.sx;
  const float length = norm(from, m), scale = length == 0.f ? 0.f : float(grad[index]) / length;
  for (int c = 0; c < m.C; ++c) grad_x[(b * m.C + c) * plane + index % plane] = T(scale * float(from[c * m.sc]));
}

unsigned blocks(int64_t pixels) { return unsigned((pixels + THREADS - 1) / THREADS); }

} // namespace

EXPORT const char* channelnorm_forward(int64_t device, cudaStream_t stream, int64_t type, const void* x, void* out, int64_t B, int64_t C, int64_t H, int64_t W,
                                       int64_t sb, int64_t sc, int64_t sy, int64_t sx) {
  if (const char* error = text(cudaSetDevice(int(device)))) return error;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t pixels = B * H * W;
    forward<T><<<blocks(pixels), THREADS, 0, stream>>>(static_cast<const T*>(x), static_cast<T*>(out), Map{int(C), int(H), int(W), sb, sc, sy, sx}, pixels);
    return text(cudaGetLastError());
  });
}

EXPORT const char* channelnorm_backward(int64_t device, cudaStream_t stream, int64_t type, const void* grad, const void* x, void* grad_x, int64_t B, int64_t C,
                                        int64_t H, int64_t W, int64_t sb, int64_t sc, int64_t sy, int64_t sx) {
  if (const char* error = text(cudaSetDevice(int(device)))) return error;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t pixels = B * H * W;
    backward<T><<<blocks(pixels), THREADS, 0, stream>>>(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x),
                                                        Map{int(C), int(H), int(W), sb, sc, sy, sx}, pixels);
    return text(cudaGetLastError());
  });
}
