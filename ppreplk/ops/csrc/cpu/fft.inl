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

PPREPLK_INLINE Complex times(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.im * b.re + a.re * b.im}; }
PPREPLK_INLINE Complex times_conjugate(Complex a, Complex b) {
  return {a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im};
}

// Packed weights come from outside and need not be aligned.
PPREPLK_INLINE Complex load_complex(const float* p) { return {load(p), load(p + kLanes)}; }

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
        b = j == 1 ? Complex{odd[j].re * im, odd[j].im * im} : Complex{b.re + odd[j].re * im, b.im + odd[j].im * im};
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

// Transforms of length A * B: B small transforms of length A, rotations, A of length B.
//
// Inputs and outputs may be a run of `count` numbers from index `begin` of the transform on:
// what lies outside counts as zero (input) or is thrown away (output). The inverse transform
// is the forward one with real and imaginary parts exchanged on both sides (and a factor of
// the length, left to the caller).
template <int A, int B>
struct Fft {
  static constexpr int N = A * B;

  // load(index) returns an input.
  template <class Load>
  PPREPLK_INLINE static void first_pass(Complex* middle, Load load) {
    for (int j = 0; j < B; ++j) {
      Complex x[A];
      PPREPLK_UNROLL
      for (int i = 0; i < A; ++i) x[i] = load(B * i + j);
      small_transform<A>(x);
      middle[j] = x[0];
      PPREPLK_UNROLL
      for (int k = 1; k < A; ++k) {
        middle[k * B + j] = multiply(x[k], kRoots<N>.re[j * k], kRoots<N>.im[j * k]);
      }
    }
  }

  // store(index, value) takes an output.
  template <class Store>
  PPREPLK_INLINE static void second_pass(const Complex* middle, Store store) {
    for (int k = 0; k < A; ++k) {
      Complex x[B];
      PPREPLK_UNROLL
      for (int j = 0; j < B; ++j) x[j] = middle[k * B + j];
      small_transform<B>(x);
      PPREPLK_UNROLL
      for (int q = 0; q < B; ++q) store(k + A * q, x[q]);
    }
  }

  static bool inside(int index, int begin, int count) {
    return static_cast<unsigned>(index - begin) < static_cast<unsigned>(count);
  }

  // Two rows of real numbers, transformed as one of complex numbers.
  [[gnu::noinline]] static void forward_rows(const Vec* a, const Vec* b, int begin, int count, Complex* out) {
    Complex middle[N];
    a -= begin, b -= begin;
    first_pass(middle, [=](int i) { return inside(i, begin, count) ? Complex{a[i], b[i]} : Complex{}; });
    second_pass(middle, [=](int i, Complex v) { out[i] = v; });
  }
  [[gnu::noinline]] static void inverse_rows(const Complex* in, int begin, int count, Vec* a, Vec* b) {
    Complex middle[N];
    a -= begin, b -= begin;
    first_pass(middle, [=](int i) { return Complex{in[i].im, in[i].re}; });
    second_pass(middle, [=](int i, Complex v) {
      if (inside(i, begin, count)) a[i] = v.im, b[i] = v.re;
    });
  }

  [[gnu::noinline]] static void forward_column(const Complex* in, int begin, int count, Complex* out) {
    Complex middle[N];
    in -= begin;
    first_pass(middle, [=](int i) { return inside(i, begin, count) ? in[i] : Complex{}; });
    second_pass(middle, [=](int i, Complex v) { out[i] = v; });
  }
  [[gnu::noinline]] static void inverse_column(const Complex* in, int begin, int count, Complex* out) {
    Complex middle[N];
    out -= begin;
    first_pass(middle, [=](int i) { return Complex{in[i].im, in[i].re}; });
    second_pass(middle, [=](int i, Complex v) {
      if (inside(i, begin, count)) out[i] = {v.im, v.re};
    });
  }

  // Inverse transform of (transform of column * conj(weight)), in place.
  [[gnu::noinline]] static void correlate_column(Complex* column, int in_begin, int in_count, const float* weight,
                                                 int out_begin, int out_count) {
    Complex middle[N], line[N];
    const Complex* in = column - in_begin;
    Complex* out = column - out_begin;
    first_pass(middle, [=](int i) { return inside(i, in_begin, in_count) ? in[i] : Complex{}; });
    second_pass(middle, [&](int i, Complex v) {
      const Complex product = times_conjugate(v, load_complex(weight + 2 * i * kLanes));
      line[i] = {product.im, product.re};
    });
    first_pass(middle, [&](int i) { return line[i]; });
    second_pass(middle, [=](int i, Complex v) {
      if (inside(i, out_begin, out_count)) out[i] = {v.im, v.re};
    });
  }
};

// The functions of Fft for one length.
struct Transforms {
  void (*forward_rows)(const Vec*, const Vec*, int, int, Complex*);
  void (*inverse_rows)(const Complex*, int, int, Vec*, Vec*);
  void (*forward_column)(const Complex*, int, int, Complex*);
  void (*inverse_column)(const Complex*, int, int, Complex*);
  void (*correlate_column)(Complex*, int, int, const float*, int, int);
};

template <int A, int B>
constexpr Transforms transforms_of() {
  return {Fft<A, B>::forward_rows, Fft<A, B>::inverse_rows, Fft<A, B>::forward_column, Fft<A, B>::inverse_column,
          Fft<A, B>::correlate_column};
}

// In the order of kTransformLengths.
constexpr Transforms kTransforms[] = {
    transforms_of<1, 1>(),   transforms_of<1, 2>(),   transforms_of<1, 3>(),   transforms_of<1, 4>(),
    transforms_of<1, 5>(),   transforms_of<2, 3>(),   transforms_of<2, 4>(),   transforms_of<2, 5>(),
    transforms_of<3, 4>(),   transforms_of<2, 7>(),   transforms_of<4, 4>(),   transforms_of<3, 6>(),
    transforms_of<4, 5>(),   transforms_of<4, 6>(),   transforms_of<4, 7>(),   transforms_of<4, 8>(),
    transforms_of<6, 6>(),   transforms_of<5, 8>(),   transforms_of<6, 7>(),   transforms_of<6, 8>(),
    transforms_of<6, 9>(),   transforms_of<6, 10>(),  transforms_of<8, 8>(),   transforms_of<9, 8>(),
    transforms_of<8, 10>(),  transforms_of<9, 10>(),  transforms_of<8, 12>(),  transforms_of<8, 14>(),
    transforms_of<8, 16>(),  transforms_of<9, 16>(),  transforms_of<10, 16>(), transforms_of<12, 16>(),
    transforms_of<14, 16>(), transforms_of<16, 16>(),
};
static_assert(std::size(kTransforms) == std::size(kTransformLengths));

inline const Transforms& find_transforms(int length) {
  const auto at = std::lower_bound(std::begin(kTransformLengths), std::end(kTransformLengths), length);
  return kTransforms[at - std::begin(kTransformLengths)];
}
