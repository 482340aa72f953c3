// Bilinear backward warp by a flow in pixels, coordinates clamped to the border, forward and backward. One thread per pixel; the
// image may have any strides, everything else is contiguous, [B, C, H, W].
#include "common.cuh"

namespace {

constexpr int THREADS = 256;

struct Image {
  int C, H, W;
  int64_t sb, sc, sy, sx; // strides, in values
};

// Where a pixel reads from: the corners' columns and rows, and how far it lies from the first towards the second.
struct Place {
  int x0, x1, y0, y1;
  float ax, ay;
  bool x_inside, y_inside; // otherwise clamped: the flow then makes no difference
};

// A flow that is not a number stays one in ax or ay (and so in the result); the columns and rows are valid all the same.
__device__ inline float clamped(float v, int size) { return v < 0.f ? 0.f : v > size - 1 ? float(size - 1) : v; }

__device__ Place place(float x, float y, int W, int H) {
  Place p;
  p.x_inside = x >= 0.f && x <= W - 1;
  p.y_inside = y >= 0.f && y <= H - 1;
  x = clamped(x, W);
  y = clamped(y, H);
  p.x0 = min(max(int(floorf(x)), 0), W - 1);
  p.y0 = min(max(int(floorf(y)), 0), H - 1);
  p.x1 = min(p.x0 + 1, W - 1);
  p.y1 = min(p.y0 + 1, H - 1);
  p.ax = x - floorf(x);
  p.ay = y - floorf(y);
  return p;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) forward(const T* __restrict__ image, const float* __restrict__ flow, T* __restrict__ out,
                                                   Image m, int64_t pixels) {
  const int64_t index = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= pixels) return;
  const int x = index % m.W, y = index / m.W % m.H;
  const int64_t plane = int64_t(m.H) * m.W, b = index / plane, pixel = index % plane;
  const Place p = place(x + flow[(2 * b) * plane + pixel], y + flow[(2 * b + 1) * plane + pixel], m.W, m.H);
  const T* from = image + b * m.sb;
  const int64_t i00 = p.y0 * m.sy + p.x0 * m.sx, i01 = p.y0 * m.sy + p.x1 * m.sx, i10 = p.y1 * m.sy + p.x0 * m.sx,
                i11 = p.y1 * m.sy + p.x1 * m.sx;
  const float w00 = (1.f - p.ay) * (1.f - p.ax), w01 = (1.f - p.ay) * p.ax, w10 = p.ay * (1.f - p.ax), w11 = p.ay * p.ax;
  for (int c = 0; c < m.C; ++c, from += m.sc)
    out[(b * m.C + c) * plane + pixel] = T(w00 * float(from[i00]) + w01 * float(from[i01]) + w10 * float(from[i10]) + w11 * float(from[i11]));
}

// grad_flow is gathered; grad_image (float32, zeros at the start) is scattered by atomic additions. Either may be null.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    backward(const T* __restrict__ grad, const T* __restrict__ image, const float* __restrict__ flow, float* __restrict__ grad_image,
             float* __restrict__ grad_flow, Image m, int64_t pixels) {
  const int64_t index = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= pixels) return;
  const int x = index % m.W, y = index / m.W % m.H;
  const int64_t plane = int64_t(m.H) * m.W, b = index / plane, pixel = index % plane;
  const Place p = place(x + flow[(2 * b) * plane + pixel], y + flow[(2 * b + 1) * plane + pixel], m.W, m.H);
  const T* from = image + b * m.sb;
  const int64_t i00 = p.y0 * m.sy + p.x0 * m.sx, i01 = p.y0 * m.sy + p.x1 * m.sx, i10 = p.y1 * m.sy + p.x0 * m.sx,
                i11 = p.y1 * m.sy + p.x1 * m.sx;
  float gx = 0.f, gy = 0.f;
  for (int c = 0; c < m.C; ++c, from += m.sc) {
    const float g = float(grad[(b * m.C + c) * plane + pixel]);
    if (grad_flow) {
      const float v00 = float(from[i00]), v01 = float(from[i01]), v10 = float(from[i10]), v11 = float(from[i11]);
      gx += g * ((1.f - p.ay) * (v01 - v00) + p.ay * (v11 - v10));
      gy += g * ((1.f - p.ax) * (v10 - v00) + p.ax * (v11 - v01));
    }
    if (grad_image) {
      float* to = grad_image + (b * m.C + c) * plane;
      atomicAdd(to + p.y0 * m.W + p.x0, g * (1.f - p.ay) * (1.f - p.ax));
      atomicAdd(to + p.y0 * m.W + p.x1, g * (1.f - p.ay) * p.ax);
      atomicAdd(to + p.y1 * m.W + p.x0, g * p.ay * (1.f - p.ax));
      atomicAdd(to + p.y1 * m.W + p.x1, g * p.ay * p.ax);
    }
  }
  if (grad_flow) {
    grad_flow[(2 * b) * plane + pixel] = p.x_inside ? gx : 0.f;
    grad_flow[(2 * b + 1) * plane + pixel] = p.y_inside ? gy : 0.f;
  }
}

unsigned blocks(int64_t pixels) { return unsigned((pixels + THREADS - 1) / THREADS); }

} // namespace

EXPORT const char* resample2d_forward(int64_t device, cudaStream_t stream, int64_t type, const void* image, const float* flow, void* out, int64_t B,
                                      int64_t C, int64_t H, int64_t W, int64_t sb, int64_t sc, int64_t sy, int64_t sx) {
  if (const char* error = text(cudaSetDevice(int(device)))) return error;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const Image m{int(C), int(H), int(W), sb, sc, sy, sx};
    const int64_t pixels = B * H * W;
    forward<T><<<blocks(pixels), THREADS, 0, stream>>>(static_cast<const T*>(image), flow, static_cast<T*>(out), m, pixels);
    return text(cudaGetLastError());
  });
}

EXPORT const char* resample2d_backward(int64_t device, cudaStream_t stream, int64_t type, const void* grad, const void* image, const float* flow,
                                       float* grad_image, float* grad_flow, int64_t B, int64_t C, int64_t H, int64_t W, int64_t sb, int64_t sc, int64_t sy,
                                       int64_t sx) {
  if (const char* error = text(cudaSetDevice(int(device)))) return error;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const Image m{int(C), int(H), int(W), sb, sc, sy, sx};
    const int64_t pixels = B * H * W;
    backward<T><<<blocks(pixels), THREADS, 0, stream>>>(static_cast<const T*>(grad), static_cast<const T*>(image), flow, grad_image, grad_flow,
                                                        m, pixels);
    return text(cudaGetLastError());
  });
}
