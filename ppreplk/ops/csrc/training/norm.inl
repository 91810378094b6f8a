// The loops of one instruction set, see loops.h: the compiler makes vector code of them. Included inside a namespace once
// for each of them.

// 1 / sqrt(2 pi), and the complementary error function on x >= 0 as exp(-x^2) times a polynomial of 1 / (1 + x / 2), with
// a relative error of 4e-8. exp is 2^whole times a polynomial of the rest, with an error of 2e-9.
struct Normal {
  float cumulative, density;
};
inline Normal normal(float z) {
  const float size = __builtin_fabsf(z) * 0.707106781f;
  const float power = size * size * -1.44269504f;
  const float bounded = power < -126.0f ? -126.0f : power;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
  const float shifted = bounded + kRound;
  const float rest = bounded - (shifted - kRound);
  float exp2 = 0.000153375768f;
  exp2 = exp2 * rest + 0.00133998604f;
  exp2 = exp2 * rest + 0.00961851953f;
  exp2 = exp2 * rest + 0.05550329f;
  exp2 = exp2 * rest + 0.240226466f;
  exp2 = exp2 * rest + 0.693147206f;
  exp2 = exp2 * rest + 1.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000u;  // 2^whole; what the constant left in the upper bits is shifted out
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  const float exp = exp2 * scale;
  const float t = 1.0f / (1.0f + 0.5f * size);
  float erfc = -0.0586403422f;
  erfc = erfc * t + 0.282471584f;
  erfc = erfc * t - 0.482815438f;
  erfc = erfc * t + 0.27301214f;
  erfc = erfc * t - 0.0231116787f;
  erfc = erfc * t + 0.201184137f;
  erfc = erfc * t + 0.243488387f;
  erfc = erfc * t + 0.282321638f;
  erfc = erfc * t + 0.282089533f;
  const float tail = 0.5f * t * exp * erfc, body = 1.0f - tail;
  return {z < 0 ? tail : body, 0.398942280f * exp};
}

template <Activation A>
inline float activated(float z) {
  if (A == Activation::relu) return z < 0 ? 0.0f : z;
  if (A == Activation::relu6) return z < 0 ? 0.0f : z > 6 ? 6.0f : z;
  if (A == Activation::gelu) return z * normal(z).cumulative;
  return z;
}

// dy times the derivative.
template <Activation A>
inline float derived(float z, float dy) {
  if (A == Activation::relu) return z > 0 ? dy : 0.0f;
  if (A == Activation::relu6) return z > 0 && z < 6 ? dy : 0.0f;
  if (A == Activation::gelu) {
    const Normal n = normal(z);
    return dy * (n.cumulative + z * n.density);
  }
  return dy;
}

// Mean and sum of squared distances from it, over a few rows.
inline void block_statistics(const float* x, const Part& part, float* __restrict mean, float* __restrict squares) {
  const int64_t stride = part.stride, rows = part.rows, channels = part.channels;
  for (int64_t c = 0; c < channels; ++c) mean[c] = squares[c] = 0.0f;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const float *a = x + row * stride, *b = a + stride, *d = b + stride, *e = d + stride;
    for (int64_t c = 0; c < channels; ++c) mean[c] += (a[c] + b[c]) + (d[c] + e[c]);
  }
  for (; row < rows; ++row) {
    const float* a = x + row * stride;
    for (int64_t c = 0; c < channels; ++c) mean[c] += a[c];
  }
  const float share = 1.0f / static_cast<float>(rows);
  for (int64_t c = 0; c < channels; ++c) mean[c] *= share;
  for (row = 0; row + 2 <= rows; row += 2) {
    const float *a = x + row * stride, *b = a + stride;
    for (int64_t c = 0; c < channels; ++c) {
      const float first = a[c] - mean[c], second = b[c] - mean[c];
      squares[c] += first * first + second * second;
    }
  }
  for (; row < rows; ++row) {
    const float* a = x + row * stride;
    for (int64_t c = 0; c < channels; ++c) {
      const float first = a[c] - mean[c];
      squares[c] += first * first;
    }
  }
}

// Adds the statistics of a block of `rows` rows to those of the `before` rows before it.
inline void add_statistics(const float* block_mean, const float* block_squares, int64_t rows, int64_t before,
                           int64_t channels, double* __restrict mean, double* __restrict squares) {
  const double share = static_cast<double>(rows) / static_cast<double>(rows + before);
  const double weight = share * static_cast<double>(before);
  for (int64_t c = 0; c < channels; ++c) {
    const double distance = block_mean[c] - mean[c];
    mean[c] += distance * share;
    squares[c] += block_squares[c] + distance * distance * weight;
  }
}

template <int kBranches>
inline float z_of(const Affine<kBranches>& in, int64_t at, int64_t c) {
  float sum = (in.x[0][at + c] - in.mean[0][c]) * in.scale[0][c] + in.shift[c];
  if (kBranches == 2) {
    constexpr int kLast = kBranches - 1;
    sum += (in.x[kLast][at + c] - in.mean[kLast][c]) * in.scale[kLast][c];
  }
  return sum;
}

template <int kBranches, Activation A>
void apply(const Affine<kBranches> in, const Part part, float* __restrict y) {
  for (int64_t at = 0; at < part.rows * part.stride; at += part.stride) {
#pragma omp simd
    for (int64_t c = 0; c < part.channels; ++c) y[at + c] = activated<A>(z_of(in, at, c));
  }
}

inline void apply_residual(const Affine<1>& source, const Part& bounds, const float* residual, float keep,
                           float* __restrict y) {
  const Affine<1> in = source;
  const Part part = bounds;
  for (int64_t at = 0; at < part.rows * part.stride; at += part.stride) {
#pragma omp simd
    for (int64_t c = 0; c < part.channels; ++c) y[at + c] = residual[at + c] + keep * z_of(in, at, c);
  }
}

// Sums of dz and of dz * (x - mean), and dz itself where it is worth keeping.
template <int kBranches, Activation A>
void sums(const Affine<kBranches> in, const Part part, const float* dy, float keep,
          float* __restrict sum, float* const* product, float* kept) {
  float* __restrict first = product[0];
  float* __restrict second = product[kBranches - 1];
  for (int64_t at = 0; at < part.rows * part.stride; at += part.stride) {
#pragma omp simd
    for (int64_t c = 0; c < part.channels; ++c) {
      const float dz = A == Activation::none ? keep * dy[at + c] : derived<A>(z_of(in, at, c), dy[at + c]);
      if (A == Activation::gelu) kept[at + c] = dz;
      sum[c] += dz;
      first[c] += dz * (in.x[0][at + c] - in.mean[0][c]);
      if (kBranches == 2) second[c] += dz * (in.x[kBranches - 1][at + c] - in.mean[kBranches - 1][c]);
    }
  }
}

// dx = scale * (dz - average - (x - mean) * slope) for each branch.
template <int kBranches, Activation A>
void spread(const Affine<kBranches> in, const Part part, const float* dy, float keep,
            const float* average, const float* const* slope, float* const* dx) {
  const float* slope0 = slope[0];
  const float* slope1 = slope[kBranches - 1];
  float *first = dx[0], *second = dx[kBranches - 1];
  for (int64_t at = 0; at < part.rows * part.stride; at += part.stride) {
#pragma omp simd
    for (int64_t c = 0; c < part.channels; ++c) {
      float dz = A == Activation::gelu   ? first[at + c]
                 : A == Activation::none ? keep * dy[at + c]
                                         : derived<A>(z_of(in, at, c), dy[at + c]);
      dz -= average[c];
      first[at + c] = in.scale[0][c] * (dz - (in.x[0][at + c] - in.mean[0][c]) * slope0[c]);
      if (kBranches == 2) {
        second[at + c] = in.scale[kBranches - 1][c] *
                         (dz - (in.x[kBranches - 1][at + c] - in.mean[kBranches - 1][c]) * slope1[c]);
      }
    }
  }
}

template <int kBranches>
void apply_any(Activation activation, const Affine<kBranches>& in, const Part& part,
               float* y) {
  switch (activation) {
    case Activation::none: return apply<kBranches, Activation::none>(in, part, y);
    case Activation::relu: return apply<kBranches, Activation::relu>(in, part, y);
    case Activation::gelu: return apply<kBranches, Activation::gelu>(in, part, y);
    case Activation::relu6: return apply<kBranches, Activation::relu6>(in, part, y);
  }
}

template <int kBranches>
void sums_any(Activation activation, const Affine<kBranches>& in, const Part& part,
              const float* dy, float keep, float* sum, float* const* product, float* kept) {
  const auto run = activation == Activation::none   ? sums<kBranches, Activation::none>
                   : activation == Activation::relu ? sums<kBranches, Activation::relu>
                   : activation == Activation::gelu ? sums<kBranches, Activation::gelu>
                                                    : sums<kBranches, Activation::relu6>;
  run(in, part, dy, keep, sum, product, kept);
}

template <int kBranches>
void spread_any(Activation activation, const Affine<kBranches>& in, const Part& part,
                const float* dy, float keep, const float* average, const float* const* slope, float* const* dx) {
  const auto run = activation == Activation::none   ? spread<kBranches, Activation::none>
                   : activation == Activation::relu ? spread<kBranches, Activation::relu>
                   : activation == Activation::gelu ? spread<kBranches, Activation::gelu>
                                                    : spread<kBranches, Activation::relu6>;
  run(in, part, dy, keep, average, slope, dx);
}

inline const Loops kLoops{block_statistics,
                          add_statistics,
                          apply_residual,
                          {apply_any<1>, sums_any<1>, spread_any<1>},
                          {apply_any<2>, sums_any<2>, spread_any<2>}};
