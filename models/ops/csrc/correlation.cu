// Correlation of two feature maps, forward and backward. Maps are channels-last, [B, H, W, C]; the result is [B, H, W, n * n] with
// n = 2 * radius + 1 displacements of step pixels along each axis (y outer):
//   out[y, x, i * n + j] = mean over c of a[y, x, c] * b[y + step * (i - radius), x + step * (j - radius), c], zero outside b.
//
// Pixels x with the same remainder p = x mod step only ever meet pixels with that remainder: x = p + step * u. Along u the problem is
// a dense band (u meets u - radius .. u + radius), whatever the step, which is how both kernels tile it.
#include "common.cuh"

namespace {

constexpr int TILE_U = 16;                 // positions u of a block
constexpr int TILE_DX = 21;                // displacements along x of a block
constexpr int SPAN = TILE_U + TILE_DX - 1; // positions of b that these meet

struct Sizes {
  int H, W, C, radius, step;
  int u_tiles;  // tiles along u, for each remainder
  __host__ __device__ int n() const { return 2 * radius + 1; }
};

// ---------------------------------------------------------------------------------------------------------------- forward
// A block computes TILE_U positions x TILE_DY x TILE_DX displacements of one row, as a register tile of 4 x 7 in each thread. The
// channels pass through shared memory CHUNK at a time, as float32.
constexpr int TILE_DY = 7;
constexpr int CHUNK = 16;
constexpr int ROW = CHUNK + 4;      // padded: 16-byte reads of 8 neighbouring rows then touch all 32 banks once
constexpr int SPAN_ROWS = SPAN + 1; // odd, for the same reason between the rows of neighbouring dy
constexpr int THREAD_U = 4, THREAD_DX = 7;
constexpr int U_GROUPS = TILE_U / THREAD_U;
constexpr int FORWARD_THREADS = TILE_DY * U_GROUPS * (TILE_DX / THREAD_DX);
constexpr int STAGED = (TILE_U + TILE_DY * SPAN_ROWS) * ROW;
constexpr int TILE_OUT = TILE_DY * TILE_DX; // results of a position
static_assert(TILE_U * TILE_OUT <= STAGED, "the results reuse the staging memory");

template <typename T, bool ALIGNED>
__global__ void __launch_bounds__(FORWARD_THREADS) forward(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out, Sizes s) {
  __shared__ __align__(16) float shared[STAGED];
  float* rows_a = shared;
  float* rows_b = shared + TILE_U * ROW;

  const int n = s.n(), tiles_dx = (n + TILE_DX - 1) / TILE_DX;
  int block = blockIdx.x;
  const int u0 = block % s.u_tiles * TILE_U;
  block /= s.u_tiles;
  const int remainder = block % s.step;
  block /= s.step;
  const int j0 = block % tiles_dx * TILE_DX, i0 = block / tiles_dx * TILE_DY;
  const int y = blockIdx.y;
  const int64_t image = int64_t(blockIdx.z) * s.H * s.W;

  const int ty = threadIdx.x % TILE_DY, tu = threadIdx.x / TILE_DY % U_GROUPS * THREAD_U,
            tj = threadIdx.x / (TILE_DY * U_GROUPS) * THREAD_DX;
  float sum[THREAD_U][THREAD_DX] = {};

  const int first = y + s.step * (i0 - s.radius), last = first + s.step * (TILE_DY - 1); // rows of b that this block meets
  const int chunks = last < 0 || first >= s.H ? 0 : (s.C + CHUNK - 1) / CHUNK;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int c0 = chunk * CHUNK;
    __syncthreads(); // the chunk before is used up
    for (int k = threadIdx.x; k < TILE_U * (CHUNK / 4); k += FORWARD_THREADS) {
      const int c = k % (CHUNK / 4) * 4, u = k / (CHUNK / 4);
      const int x = remainder + s.step * (u0 + u);
      float4 v = x < s.W ? load_channels<ALIGNED>(a + (image + int64_t(y) * s.W + x) * s.C, c0 + c, s.C) : zero4();
      *reinterpret_cast<float4*>(rows_a + u * ROW + c) = v;
    }
    for (int k = threadIdx.x; k < TILE_DY * SPAN * (CHUNK / 4); k += FORWARD_THREADS) {
      const int c = k % (CHUNK / 4) * 4, v = k / (CHUNK / 4) % SPAN, dy = k / (CHUNK / 4 * SPAN);
      const int yb = y + s.step * (i0 + dy - s.radius), xb = remainder + s.step * (u0 + v + j0 - s.radius);
      const bool inside = yb >= 0 && yb < s.H && xb >= 0 && xb < s.W;
      float4 value = inside ? load_channels<ALIGNED>(b + (image + int64_t(yb) * s.W + xb) * s.C, c0 + c, s.C) : zero4();
      *reinterpret_cast<float4*>(rows_b + (dy * SPAN_ROWS + v) * ROW + c) = value;
    }
    __syncthreads();
    const float* my_a = rows_a + tu * ROW;
    const float* my_b = rows_b + (ty * SPAN_ROWS + tu + tj) * ROW;
#pragma unroll
    for (int c = 0; c < CHUNK; c += 4) {
      float4 va[THREAD_U];
#pragma unroll
      for (int i = 0; i < THREAD_U; ++i) va[i] = load4(my_a + i * ROW + c);
#pragma unroll
      for (int k = 0; k < THREAD_U + THREAD_DX - 1; ++k) {
        const float4 vb = load4(my_b + k * ROW + c);
#pragma unroll
        for (int i = 0; i < THREAD_U; ++i) {
          const int j = k - i;
          if (j < 0 || j >= THREAD_DX) continue;
          sum[i][j] += va[i].x * vb.x; // one at a time: four fused multiply-adds
          sum[i][j] += va[i].y * vb.y;
          sum[i][j] += va[i].z * vb.z;
          sum[i][j] += va[i].w * vb.w;
        }
      }
    }
  }

  // Through shared memory, so that neighbouring threads write neighbouring results.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < THREAD_U; ++i)
#pragma unroll
    for (int j = 0; j < THREAD_DX; ++j) shared[(tu + i) * TILE_OUT + ty * TILE_DX + tj + j] = sum[i][j];
  __syncthreads();
  const float scale = 1.f / s.C;
  for (int k = threadIdx.x; k < TILE_U * TILE_OUT; k += FORWARD_THREADS) {
    const int x = remainder + s.step * (u0 + k / TILE_OUT), i = i0 + k % TILE_OUT / TILE_DX, j = j0 + k % TILE_DX;
    if (x < s.W && i < n && j < n) out[(image + int64_t(y) * s.W + x) * n * n + i * n + j] = T(shared[k] * scale);
  }
}

// --------------------------------------------------------------------------------------------------------------- backward
// Both gradients gather, so nothing is added atomically:
//   grad_a[y, x] = sum over i, j of grad[y, x, i, j] * b[y + dy(i), x + dx(j)]        dy(i) = step * (i - radius), dx likewise
//   grad_b[y, x] = sum over i, j of grad[y + dy(i), x + dx(j), -i, -j] * a[y + dy(i), x + dx(j)]        -i stands for 2 * radius - i
// A block computes TILE_U positions x TILE_C channels of one row, 4 x 4 in each thread, and walks over the displacements.
constexpr int TILE_C = 64;
constexpr int BACKWARD_THREADS = U_GROUPS * (TILE_C / 4);
constexpr int WEIGHTS = THREAD_U + TILE_DX - 1; // positions of the other map that a thread's THREAD_U positions meet

template <typename T, bool ALIGNED, bool OF_B>
__global__ void __launch_bounds__(BACKWARD_THREADS)
    backward(const T* __restrict__ grad, const T* __restrict__ other, T* __restrict__ result, Sizes s) {
  __shared__ __align__(16) float rows[SPAN][TILE_C];
  __shared__ __align__(16) float weights[U_GROUPS][WEIGHTS][THREAD_U];

  const int n = s.n();
  int block = blockIdx.x;
  const int u0 = block % s.u_tiles * TILE_U;
  block /= s.u_tiles;
  const int remainder = block % s.step, c0 = block / s.step * TILE_C;
  const int y = blockIdx.y;
  const int64_t image = int64_t(blockIdx.z) * s.H * s.W;
  const int group = threadIdx.x / (TILE_C / 4), tc = threadIdx.x % (TILE_C / 4) * 4;
  float4 sum[THREAD_U] = {};

  for (int i = 0; i < n; ++i) {
    const int yo = y + s.step * (i - s.radius);
    if (yo < 0 || yo >= s.H) continue;
    for (int j0 = 0; j0 < n; j0 += TILE_DX) {
      __syncthreads(); // the step before is used up
      for (int k = threadIdx.x; k < SPAN * (TILE_C / 4); k += BACKWARD_THREADS) {
        const int c = k % (TILE_C / 4) * 4, v = k / (TILE_C / 4);
        const int xo = remainder + s.step * (u0 + v + j0 - s.radius);
        float4 value =
            xo >= 0 && xo < s.W ? load_channels<ALIGNED>(other + (image + int64_t(yo) * s.W + xo) * s.C, c0 + c, s.C) : zero4();
        *reinterpret_cast<float4*>(&rows[v][c]) = value;
      }
      // weights[g][k][t]: how much position k of the span counts for position t of group g (zero outside the band of displacements)
      for (int k = threadIdx.x; k < U_GROUPS * WEIGHTS * THREAD_U; k += BACKWARD_THREADS) {
        const int t = k % THREAD_U, v = k / THREAD_U % WEIGHTS, g = k / (THREAD_U * WEIGHTS);
        const int x = remainder + s.step * (u0 + g * THREAD_U + t), dx = v - t, j = j0 + dx;
        const int xo = x + s.step * (j - s.radius);
        float weight = 0.f;
        if (dx >= 0 && dx < TILE_DX && j < n && x < s.W && xo >= 0 && xo < s.W) {
          const int64_t pixel = image + (OF_B ? int64_t(yo) * s.W + xo : int64_t(y) * s.W + x);
          const int displacement = OF_B ? (n - 1 - i) * n + n - 1 - j : i * n + j;
          weight = float(grad[pixel * n * n + displacement]);
        }
        weights[g][v][t] = weight;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < WEIGHTS; ++k) {
        const float4 v = load4(&rows[group * THREAD_U + k][tc]);
        const float4 w = load4(weights[group][k]);
        const float each[THREAD_U] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int t = 0; t < THREAD_U; ++t) {
          sum[t].x += each[t] * v.x;
          sum[t].y += each[t] * v.y;
          sum[t].z += each[t] * v.z;
          sum[t].w += each[t] * v.w;
        }
      }
    }
  }

  const float scale = 1.f / s.C;
#pragma unroll
  for (int t = 0; t < THREAD_U; ++t) {
    const int x = remainder + s.step * (u0 + group * THREAD_U + t);
    if (x >= s.W) continue;
    T* pixel = result + (image + int64_t(y) * s.W + x) * s.C;
    const float channels[4] = {sum[t].x, sum[t].y, sum[t].z, sum[t].w};
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (c0 + tc + c < s.C) pixel[c0 + tc + c] = T(channels[c] * scale);
  }
}

Sizes sizes(int H, int W, int C, int radius, int step) {
  const int positions = (W + step - 1) / step;
  return {H, W, C, radius, step, (positions + TILE_U - 1) / TILE_U};
}

} // namespace

EXPORT const char* correlation_forward(int64_t device, cudaStream_t stream, int64_t type, const void* a, const void* b, void* out, int64_t B, int64_t H,
                                       int64_t W, int64_t C, int64_t radius, int64_t step) {
  if (const char* error = text(cudaSetDevice(int(device)))) return error;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const Sizes s = sizes(int(H), int(W), int(C), int(radius), int(step));
    const int tiles = (s.n() + TILE_DY - 1) / TILE_DY * ((s.n() + TILE_DX - 1) / TILE_DX);
    const dim3 grid(tiles * step * s.u_tiles, H, B);
    const T *pa = static_cast<const T*>(a), *pb = static_cast<const T*>(b);
    T* po = static_cast<T*>(out);
    if (aligned4(a, C, sizeof(T)) && aligned4(b, C, sizeof(T)))
      forward<T, true><<<grid, FORWARD_THREADS, 0, stream>>>(pa, pb, po, s);
    else
      forward<T, false><<<grid, FORWARD_THREADS, 0, stream>>>(pa, pb, po, s);
    return text(cudaGetLastError());
  });
}

// The gradient of a (of_b 0; other is b) or of b (of_b 1; other is a).
EXPORT const char* correlation_backward(int64_t device, cudaStream_t stream, int64_t type, int64_t of_b, const void* grad, const void* other,
                                        void* result, int64_t B, int64_t H, int64_t W, int64_t C, int64_t radius, int64_t step) {
  if (const char* error = text(cudaSetDevice(int(device)))) return error;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const Sizes s = sizes(int(H), int(W), int(C), int(radius), int(step));
    const dim3 grid((C + TILE_C - 1) / TILE_C * step * s.u_tiles, H, B);
    const T *pg = static_cast<const T*>(grad), *po = static_cast<const T*>(other);
    T* pr = static_cast<T*>(result);
    const bool aligned = aligned4(other, C, sizeof(T));
    if (of_b && aligned)
      backward<T, true, true><<<grid, BACKWARD_THREADS, 0, stream>>>(pg, po, pr, s);
    else if (of_b)
      backward<T, false, true><<<grid, BACKWARD_THREADS, 0, stream>>>(pg, po, pr, s);
    else if (aligned)
      backward<T, true, false><<<grid, BACKWARD_THREADS, 0, stream>>>(pg, po, pr, s);
    else
      backward<T, false, false><<<grid, BACKWARD_THREADS, 0, stream>>>(pg, po, pr, s);
    return text(cudaGetLastError());
  });
}

// Null when this library holds code that the device can run.
EXPORT const char* check(int64_t device) {
  if (const char* error = text(cudaSetDevice(int(device)))) return error;
  cudaFuncAttributes attributes;
  return text(cudaFuncGetAttributes(&attributes, forward<float, true>));
}
