// One-dimensional complex Fourier transforms of kLanes channels at once. Included inside a
// namespace.

struct Complex {
  Vec re, im;
};

PPREPLK_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
PPREPLK_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
PPREPLK_INLINE Complex times_minus_i(Complex a) { return {a.im, -a.re}; }
PPREPLK_INLINE Complex multiply(Complex a, float re, float im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}

// a * exp(-2 pi i m / N). With a constant m, quarter turns cost no multiplication.
template <int N>
PPREPLK_INLINE Complex rotate(Complex a, int m) {
  if (m == 0) return a;
  if (4 * m == N) return times_minus_i(a);
  if (2 * m == N) return {-a.re, -a.im};
  return multiply(a, kRoots<N>.re[m], kRoots<N>.im[m]);
}

// N = outer * inner of a small transform; inner is N itself if N is 4 or a prime.
constexpr int inner_factor(int n) {
  if (n % 4 == 0) return 4;
  for (int factor : {7, 5, 3}) {
    if (n % factor == 0) return factor;
  }
  return n;
}

// In-place transform of a small length in registers, natural order in and out.
template <int N>
PPREPLK_INLINE void small_transform(Complex* x) {
  constexpr int kInner = inner_factor(N);
  constexpr int kOuter = N / kInner;
  if constexpr (N == 1) {
    return;
  } else if constexpr (N == 2) {
    const Complex a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  } else if constexpr (N == 4) {
    const Complex a = x[0] + x[2], b = x[0] - x[2];
    const Complex c = x[1] + x[3], d = times_minus_i(x[1] - x[3]);
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
  } else if constexpr (kOuter == 1) {
    // An odd prime: even and odd parts of the input give even and odd parts of the output.
    constexpr int kHalf = N / 2;
    Complex even[kHalf + 1], odd[kHalf + 1];
    const Complex first = x[0];
    PPREPLK_UNROLL
    for (int j = 1; j <= kHalf; ++j) {
      even[j] = x[j] + x[N - j];
      odd[j] = x[j] - x[N - j];
      x[0] = x[0] + even[j];
    }
    PPREPLK_UNROLL
    for (int k = 1; k <= kHalf; ++k) {
      Complex a = first, b{};
      PPREPLK_UNROLL
      for (int j = 1; j <= kHalf; ++j) {
        const float re = kRoots<N>.re[j * k % N], im = kRoots<N>.im[j * k % N];
        a = {a.re + even[j].re * re, a.im + even[j].im * re};
        b = j == 1 ? Complex{odd[j].re * im, odd[j].im * im}
                   : Complex{b.re + odd[j].re * im, b.im + odd[j].im * im};
      }
      x[k] = {a.re - b.im, a.im + b.re};
      x[N - k] = {a.re + b.im, a.im - b.re};
    }
  } else {
    Complex columns[N];
    PPREPLK_UNROLL
    for (int j = 0; j < kInner; ++j) {
      Complex column[kOuter];
      PPREPLK_UNROLL
      for (int i = 0; i < kOuter; ++i) column[i] = x[kInner * i + j];
      small_transform<kOuter>(column);
      PPREPLK_UNROLL
      for (int k = 0; k < kOuter; ++k) columns[k * kInner + j] = rotate<N>(column[k], j * k);
    }
    PPREPLK_UNROLL
    for (int k = 0; k < kOuter; ++k) {
      small_transform<kInner>(columns + k * kInner);
      PPREPLK_UNROLL
      for (int q = 0; q < kInner; ++q) x[k + kOuter * q] = columns[k * kInner + q];
    }
  }
}

// A run of complex numbers that starts at index `begin` of a transform. What lies outside it
// counts as zero (input) or is thrown away (output). Real and imaginary parts may be apart.
template <class Pointer>
struct Run {
  Pointer re, im;
  int stride;  // in vectors
  int begin, count;
};
using Input = Run<const Vec*>;
using Output = Run<Vec*>;

// The transform that exchanges real and imaginary parts on both sides is the inverse one
// (times the length).
template <class Pointer>
Run<Pointer> exchanged(Run<Pointer> run) {
  return {run.im, run.re, run.stride, run.begin, run.count};
}

// Transform of length A * B: B small transforms of length A, rotations, A of length B.
template <int A, int B>
[[gnu::noinline]] void transform(const Input& in, const Output& out) {
  constexpr int N = A * B;
  const Vec *in_re = in.re, *in_im = in.im;
  const int in_stride = in.stride, in_begin = in.begin;
  const unsigned in_count = in.count;
  Complex middle[N];
  for (int j = 0; j < B; ++j) {
    Complex x[A];
    PPREPLK_UNROLL
    for (int i = 0; i < A; ++i) {
      const int at = B * i + j - in_begin;
      x[i] = static_cast<unsigned>(at) < in_count
                 ? Complex{in_re[at * in_stride], in_im[at * in_stride]}
                 : Complex{};
    }
    small_transform<A>(x);
    middle[j] = x[0];
    PPREPLK_UNROLL
    for (int k = 1; k < A; ++k) {
      middle[k * B + j] = multiply(x[k], kRoots<N>.re[j * k], kRoots<N>.im[j * k]);
    }
  }
  Vec *out_re = out.re, *out_im = out.im;
  const int out_stride = out.stride, out_begin = out.begin;
  const unsigned out_count = out.count;
  for (int k = 0; k < A; ++k) {
    Complex x[B];
    PPREPLK_UNROLL
    for (int j = 0; j < B; ++j) x[j] = middle[k * B + j];
    small_transform<B>(x);
    PPREPLK_UNROLL
    for (int q = 0; q < B; ++q) {
      const int at = k + A * q - out_begin;
      if (static_cast<unsigned>(at) < out_count) {
        out_re[at * out_stride] = x[q].re;
        out_im[at * out_stride] = x[q].im;
      }
    }
  }
}

using Transform = void (*)(const Input&, const Output&);

inline Transform find_transform(int length) {
  switch (length) {
    case 1: return transform<1, 1>;
    case 2: return transform<1, 2>;
    case 3: return transform<1, 3>;
    case 4: return transform<1, 4>;
    case 5: return transform<1, 5>;
    case 6: return transform<1, 6>;
    case 8: return transform<1, 8>;
    case 9: return transform<1, 9>;
    case 10: return transform<1, 10>;
    case 12: return transform<3, 4>;
    case 14: return transform<2, 7>;
    case 15: return transform<3, 5>;
    case 16: return transform<4, 4>;
    case 18: return transform<3, 6>;
    case 20: return transform<4, 5>;
    case 21: return transform<3, 7>;
    case 24: return transform<4, 6>;
    case 25: return transform<5, 5>;
    case 28: return transform<4, 7>;
    case 30: return transform<5, 6>;
    case 32: return transform<4, 8>;
    case 35: return transform<5, 7>;
    case 36: return transform<6, 6>;
    case 40: return transform<5, 8>;
    case 42: return transform<6, 7>;
    case 45: return transform<5, 9>;
    case 48: return transform<6, 8>;
    case 50: return transform<5, 10>;
    case 54: return transform<6, 9>;
    case 56: return transform<7, 8>;
    case 60: return transform<6, 10>;
    case 64: return transform<8, 8>;
    case 70: return transform<7, 10>;
    case 72: return transform<9, 8>;
    case 80: return transform<8, 10>;
    case 84: return transform<7, 12>;
    case 90: return transform<9, 10>;
    case 96: return transform<8, 12>;
    case 100: return transform<10, 10>;
    case 112: return transform<8, 14>;
    case 120: return transform<10, 12>;
    case 128: return transform<8, 16>;
    case 144: return transform<9, 16>;
    case 160: return transform<10, 16>;
    case 192: return transform<12, 16>;
    case 224: return transform<14, 16>;
    case 256: return transform<16, 16>;
  }
  return nullptr;
}
