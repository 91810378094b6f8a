// Roots of unity as compile-time tables.
#pragma once

namespace ppreplk {

// exp(-2 pi i m / N) for m = 0 .. N - 1, rounded once from double.
template <int N>
struct Roots {
  float re[N] = {};
  float im[N] = {};

  constexpr Roots() {
    for (int m = 0; m < N; ++m) {
      re[m] = static_cast<float>(cosine(m, N));
      im[m] = static_cast<float>(-sine(m, N));
    }
  }

 private:
  // Cosine and sine of m / n turns, 0 <= m <= n. The angle is reduced to an eighth of a turn
  // in whole numbers, so that symmetric entries agree to the last bit and zeros are exact.
  static constexpr double cosine(int m, int n) {
    if (2 * m > n) return cosine(n - m, n);
    if (4 * m > n) return -cosine(n - 2 * m, 2 * n);
    if (8 * m > n) return series((n - 4 * m) * kTurn / (4 * n), 1);
    return series(m * kTurn / n, 0);
  }
  static constexpr double sine(int m, int n) {
    if (2 * m > n) return -sine(n - m, n);
    return cosine(4 * m < n ? n - 4 * m : 4 * m - n, 4 * n);
  }

  // Taylor series of the cosine (first = 0) or the sine (first = 1).
  static constexpr double series(double x, int first) {
    double term = first == 0 ? 1.0 : x, sum = term;
    for (int i = first + 1; i < 20; i += 2) {
      term *= -x * x / (i * (i + 1));
      sum += term;
    }
    return sum;
  }
  static constexpr double kTurn = 6.283185307179586476925286766559;
};

template <int N>
inline constexpr Roots<N> kRoots{};

}  // namespace ppreplk
