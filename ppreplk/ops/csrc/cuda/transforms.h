// Fourier transforms of a few complex numbers in the registers of one thread.
#pragma once

#include "device.h"

namespace ppreplk {
namespace cuda {

struct alignas(8) Complex {
  float re, im;
};

PPREPLK_DEVICE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
PPREPLK_DEVICE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
PPREPLK_DEVICE Complex times(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
PPREPLK_DEVICE Complex times_conjugate(Complex a, Complex b) {
  return {a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im};
}
PPREPLK_DEVICE Complex exchanged(Complex a) { return {a.im, a.re}; }

// Calls function(Constant<0>{}), function(Constant<1>{}), ...: a loop whose index is a constant for the compiler.
template <int I>
struct Constant {
  static constexpr int value = I;
};
template <int First, int End, class Function>
PPREPLK_DEVICE void each(Function function) {
  if constexpr (First < End) {
    function(Constant<First>{});
    each<First + 1, End>(function);
  }
}

// Cosine and sine of m / n turns, 0 <= m <= n. The angle is reduced to an eighth of a turn in whole numbers, so that
// symmetric values agree to the last bit and zeros are exact.
constexpr double kTurn = 6.283185307179586476925286766559;
__host__ __device__ constexpr double series(double x, int first) {
  double term = first == 0 ? 1.0 : x, sum = term;
  for (int i = first + 1; i < 20; i += 2) {
    term *= -x * x / (i * (i + 1));
    sum += term;
  }
  return sum;
}
__host__ __device__ constexpr double cosine(int m, int n) {
  if (2 * m > n) return cosine(n - m, n);
  if (4 * m > n) return -cosine(n - 2 * m, 2 * n);
  if (8 * m > n) return series((n - 4 * m) * kTurn / (4 * n), 1);
  return series(m * kTurn / n, 0);
}
__host__ __device__ constexpr double sine(int m, int n) {
  if (2 * m > n) return -sine(n - m, n);
  return cosine(4 * m < n ? n - 4 * m : 4 * m - n, 4 * n);
}

// exp(-2 pi i m / N) for all m, in the memory of the device.
template <int N>
struct Roots {
  Complex values[N];

  constexpr Roots() : values{} {
    for (int m = 0; m < N; ++m) values[m] = {static_cast<float>(cosine(m, N)), static_cast<float>(-sine(m, N))};
  }
};
template <int N>
__device__ const Roots<N> kRoots{};

// a * exp(-2 pi i M / N). Quarter turns cost no multiplication.
template <int M, int N>
PPREPLK_DEVICE Complex rotate(Complex a) {
  if constexpr (M == 0) {
    return a;
  } else if constexpr (4 * M == N) {
    return {a.im, -a.re};
  } else if constexpr (2 * M == N) {
    return {-a.re, -a.im};
  } else {
    constexpr float re = static_cast<float>(cosine(M, N)), im = static_cast<float>(-sine(M, N));
    return times(a, {re, im});
  }
}

// N = outer * inner; inner is N itself if N is 4 or a prime.
__host__ __device__ constexpr int inner_factor(int n) {
  if (n % 4 == 0) return 4;
  if (n % 7 == 0) return 7;
  if (n % 5 == 0) return 5;
  if (n % 3 == 0) return 3;
  return n;
}

// In place, natural order in and out. With real and imaginary parts exchanged before and after, it is the inverse
// transform times N.
template <int N>
PPREPLK_DEVICE void transform(Complex (&x)[N]) {
  constexpr int kInner = inner_factor(N), kOuter = N / kInner;
  if constexpr (N == 1) {
    return;
  } else if constexpr (N == 2) {
    const Complex a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  } else if constexpr (N == 4) {
    const Complex a = x[0] + x[2], b = x[0] - x[2];
    const Complex c = x[1] + x[3], d = rotate<1, 4>(x[1] - x[3]);
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
  } else if constexpr (kOuter == 1) {
    // An odd prime: even and odd parts of the input give even and odd parts of the output.
    constexpr int kHalf = N / 2;
    Complex even[kHalf + 1], odd[kHalf + 1];
    const Complex first = x[0];
    each<1, kHalf + 1>([&](auto j_) {
      constexpr int j = decltype(j_)::value;
      even[j] = x[j] + x[N - j];
      odd[j] = x[j] - x[N - j];
    });
    each<1, kHalf + 1>([&](auto j_) { x[0] = x[0] + even[decltype(j_)::value]; });
    each<1, kHalf + 1>([&](auto k_) {
      constexpr int k = decltype(k_)::value;
      Complex a = first, b{};
      each<1, kHalf + 1>([&](auto j_) {
        constexpr int j = decltype(j_)::value;
        constexpr float re = static_cast<float>(cosine(j * k % N, N)), im = static_cast<float>(-sine(j * k % N, N));
        a = {a.re + even[j].re * re, a.im + even[j].im * re};
        b = {b.re + odd[j].re * im, b.im + odd[j].im * im};
      });
      x[k] = {a.re - b.im, a.im + b.re};
      x[N - k] = {a.re + b.im, a.im - b.re};
    });
  } else {
    Complex columns[kOuter][kInner];
    each<0, kInner>([&](auto j_) {
      constexpr int j = decltype(j_)::value;
      Complex column[kOuter];
      each<0, kOuter>([&](auto i_) { column[decltype(i_)::value] = x[kInner * decltype(i_)::value + j]; });
      transform<kOuter>(column);
      each<0, kOuter>([&](auto k_) {
        constexpr int k = decltype(k_)::value;
        columns[k][j] = rotate<j * k, N>(column[k]);
      });
    });
    each<0, kOuter>([&](auto k_) {
      constexpr int k = decltype(k_)::value;
      transform<kInner>(columns[k]);
      each<0, kInner>([&](auto q_) { x[k + kOuter * decltype(q_)::value] = columns[k][decltype(q_)::value]; });
    });
  }
}

}  // namespace cuda
}  // namespace ppreplk
