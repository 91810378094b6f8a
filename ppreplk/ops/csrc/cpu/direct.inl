// Convolution with small kernels as plain sums. Included inside a namespace.
//
// NCHW: one channel after the other, vectors along the rows, so that nothing is transposed. A
// strip of the map is copied between zeros first. NHWC: one channel per lane, as in the other
// algorithms; the last `kernel` rows of the map are kept, between zeros.
//
// Packed weights of a block: [kLanes][kernel][kernel] floats, zeros for absent channels.

namespace direct {

inline int64_t taps(const Plan& plan) { return int64_t{plan.kernel} * plan.kernel; }

inline int64_t packed_floats(const Plan& plan) { return kLanes * taps(plan); }

// ------------------------------------------------------------------------- planes (NCHW)

constexpr int kMaxVectors = 4;  // of an output row, computed together
constexpr int kMaxRows = 7;     // output rows computed together

// Output rows whose sums fit in the registers beside `Vectors` inputs and a weight.
template <int Vectors>
constexpr int kRowsInRegisters = std::clamp((kRegisters - 2 - Vectors) / Vectors, 1, kMaxRows);

// How a row is divided: the number of vectors at a time that wastes the fewest lanes.
inline int vectors_at_a_time(int width) {
  const int needed = (width + kLanes - 1) / kLanes;
  int best = 1, min_computed = needed * 2;
  for (int vectors = 1; vectors <= kMaxVectors; ++vectors) {
    const int computed = (needed + vectors - 1) / vectors * vectors;
    if (computed <= min_computed) {
      min_computed = computed;
      best = vectors;
    }
  }
  return best;
}

// A strip of one channel as floats between zeros: `pad` of them above and on the left, and on
// the other sides as many as the last block of sums reads.
struct Strip {
  int pitch;  // floats per row
  int rows;   // output rows
  int64_t floats;
};
inline Strip strip_of(const Plan& plan) {
  constexpr int kFloats = 8192;  // a strip should fit in the first-level cache
  const int width = plan.width.extent, height = plan.height.extent, border = plan.kernel - 1;
  const int block = kLanes * vectors_at_a_time(width);
  const int pitch = ((width + block - 1) / block * block + border + kLanes) / kLanes * kLanes;
  const int rows = std::min(height, std::max(kFloats / pitch - border, 4 * kMaxRows));
  return {pitch, rows, int64_t{rows + kMaxRows + border} * pitch + kLanes};
}

template <class From, class To>
void convert(const From* in, int count, To* out) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, load(in + i));
  if (i < count) store_partial(out + i, load_partial(in + i, count - i), count - i);
}
// Rows `first - pad` to `first + rows + pad - 1` of a channel, zeros where there are none. The
// left and right borders of `out` stay as they are: zero.
template <class T>
void load_strip(const T* x, int height, int width, int pad, int first, int rows, int pitch, float* out) {
  for (int row = first - pad; row < first + rows + pad; ++row, out += pitch) {
    if (row >= 0 && row < height) {
      convert(x + int64_t{row} * width, width, out + pad);
    } else {
      std::fill_n(out + pad, width, 0.0f);
    }
  }
}

// Rows x Vectors * kLanes outputs, of which rows x columns are stored; `x` is the input pixel
// at their upper left, border included.
template <int Kernel, int Vectors, int Rows>
PPREPLK_INLINE void sum_block(const float* x, int pitch, const float* weight, Vec bias, bool with_relu, int rows,
                              int columns, int width, float* y) {
  Vec sum[Rows][Vectors];
  PPREPLK_UNROLL
  for (int r = 0; r < Rows; ++r) {
    PPREPLK_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[r][v] = bias;
  }
  PPREPLK_UNROLL
  for (int i = 0; i < Rows + Kernel - 1; ++i) {
    for (int k = 0; k < Kernel; ++k) {
      Vec input[Vectors];
      PPREPLK_UNROLL
      for (int v = 0; v < Vectors; ++v) input[v] = load(x + i * pitch + k + v * kLanes);
      PPREPLK_UNROLL
      for (int r = 0; r < Rows; ++r) {
        if (i < r || i - r >= Kernel) continue;
        const float tap = weight[(i - r) * Kernel + k];
        PPREPLK_UNROLL
        for (int v = 0; v < Vectors; ++v) sum[r][v] += input[v] * tap;
      }
    }
  }
  PPREPLK_UNROLL
  for (int r = 0; r < Rows; ++r) {
    if (r >= rows) break;
    PPREPLK_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Vec value = with_relu ? relu(sum[r][v]) : sum[r][v];
      float* out = y + int64_t{r} * width + v * kLanes;
      const int count = columns - v * kLanes;
      if (count >= kLanes) {
        store(out, value);
      } else if (count > 0) {
        store_partial(out, value, count);
      }
    }
  }
}

// `rows` output rows of one channel from a strip of it.
template <int Kernel, int Vectors>
[[gnu::noinline]] void convolve_strip(const float* strip, int pitch, const float* weight, float bias, bool with_relu,
                                      int rows, int width, float* y) {
  constexpr int kRows = kRowsInRegisters<Vectors>;
  for (int r = 0; r < rows; r += kRows) {
    for (int c = 0; c < width; c += Vectors * kLanes) {
      sum_block<Kernel, Vectors, kRows>(strip + r * pitch + c, pitch, weight, broadcast(bias), with_relu, rows - r,
                                        width - c, width, y + int64_t{r} * width + c);
    }
  }
}

// Adds the gradient from `rows` rows of one channel, x from a strip, to dweight[Kernel * Kernel],
// whose lanes are summed up later.
template <int Kernel>
[[gnu::noinline]] void weight_gradient_of_strip(const float* strip, int pitch, const float* dy, int rows, int width,
                                                Vec* dweight) {
  // Kernel rows whose sums fit in the registers.
  constexpr int kGroup = std::clamp((kRegisters - 3) / Kernel, 1, Kernel);
  for (int u = 0; u < Kernel; u += kGroup) {
    Vec sum[kGroup][Kernel] = {};
    for (int r = 0; r < rows; ++r) {
      const float* dy_row = dy + int64_t{r} * width;
      for (int c = 0; c < width; c += kLanes) {
        const Vec d = width - c >= kLanes ? load(dy_row + c) : load_partial(dy_row + c, width - c);
        PPREPLK_UNROLL
        for (int i = 0; i < kGroup; ++i) {
          // The last group may be larger than what is left of the kernel; what it sums there is not used.
          const float* x_row = strip + (r + std::min(u + i, Kernel - 1)) * pitch + c;
          PPREPLK_UNROLL
          for (int k = 0; k < Kernel; ++k) sum[i][k] += d * load(x_row + k);
        }
      }
    }
    for (int i = 0; i < std::min(kGroup, Kernel - u); ++i) {
      for (int k = 0; k < Kernel; ++k) dweight[(u + i) * Kernel + k] += sum[i][k];
    }
  }
}

// Calls use(std::integral_constant<int, n>{}) for the odd n <= kMaxDirectKernel that is kernel.
template <int Kernel = kMaxDirectKernel, class Use>
void with_kernel(int kernel, Use use) {
  if (kernel == Kernel) return use(std::integral_constant<int, Kernel>{});
  if constexpr (Kernel > 1) with_kernel<Kernel - 2>(kernel, use);
}

// The same for 1 to kMaxVectors.
template <int Vectors = kMaxVectors, class Use>
void with_vectors(int vectors, Use use) {
  if (vectors == Vectors) return use(std::integral_constant<int, Vectors>{});
  if constexpr (Vectors > 1) with_vectors<Vectors - 1>(vectors, use);
}

using ConvolveStrip = void (*)(const float*, int, const float*, float, bool, int, int, float*);
inline ConvolveStrip find_convolve_strip(const Plan& plan) {
  ConvolveStrip found = nullptr;
  with_kernel(plan.kernel, [&](auto kernel) {
    with_vectors(vectors_at_a_time(plan.width.extent),
                 [&](auto vectors) { found = convolve_strip<kernel.value, vectors.value>; });
  });
  return found;
}

// Tensors of other types than float32 are converted strip by strip.
template <class T, class Float>
auto* as_floats(T* data, Float* converted) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, float>) {
    return data;
  } else {
    return converted;
  }
}

inline void forward_planes(const Plan& plan, const Source& x, const float* packed, const Target& y,
                           const Epilogue& epilogue, Arena arena) {
  const int height = plan.height.extent, width = plan.width.extent;
  const ConvolveStrip convolve = find_convolve_strip(plan);
  const Strip strip = strip_of(plan);
  float* buffer = reinterpret_cast<float*>(arena.take(strip.floats / kLanes));
  float* converted = reinterpret_cast<float*>(arena.take(strip.floats / kLanes));
  std::fill_n(buffer, strip.floats, 0.0f);
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int c = 0; c < x.channels; ++c) {
      const T* input = static_cast<const T*>(x.data) + c * x.stride;
      T* output = static_cast<T*>(y.data) + c * y.stride;
      for (int first = 0; first < height; first += strip.rows, output += strip.rows * width) {
        const int rows = std::min(strip.rows, height - first);
        load_strip(input, height, width, plan.kernel / 2, first, rows, strip.pitch, buffer);
        float* sums = as_floats(output, converted);
        convolve(buffer, strip.pitch, packed + c * taps(plan), epilogue.bias ? epilogue.bias[c] : 0.0f, epilogue.relu,
                 rows, width, sums);
        if constexpr (!std::is_same_v<T, float>) convert(sums, rows * width, output);
      }
    }
  });
}

using WeightGradientOfStrip = void (*)(const float*, int, const float*, int, int, Vec*);
inline WeightGradientOfStrip find_weight_gradient_of_strip(const Plan& plan) {
  WeightGradientOfStrip found = nullptr;
  with_kernel(plan.kernel, [&](auto kernel) { found = weight_gradient_of_strip<kernel.value>; });
  return found;
}

// The gradient of the weights over all images of the task.
inline void weight_gradient_of_planes(const Plan& plan, const BackwardTask& task, Arena arena) {
  const int height = plan.height.extent, width = plan.width.extent;
  constexpr int kRowsPerSum = 16;
  const WeightGradientOfStrip add_gradient = find_weight_gradient_of_strip(plan);
  const Strip strip = strip_of(plan);
  Vec* sums = arena.take(taps(plan));
  float* buffer = reinterpret_cast<float*>(arena.take(strip.floats / kLanes));
  float* converted = reinterpret_cast<float*>(arena.take(strip.floats / kLanes));
  std::fill_n(buffer, strip.floats, 0.0f);
  with_type(task.x.dtype, [&](auto type) {
    using T = decltype(type);
    for (int c = 0; c < task.x.channels; ++c) {
      std::fill_n(sums, taps(plan), Vec{});
      for (int image = 0; image < task.images; ++image) {
        const int64_t offset = image * task.image_bytes;
        const T* x = static_cast<const T*>(image_of(task.x, offset).data) + c * task.x.stride;
        const T* dy = static_cast<const T*>(image_of(task.dy, offset).data) + c * task.dy.stride;
        for (int first = 0; first < height; first += strip.rows, dy += strip.rows * width) {
          const int rows = std::min(strip.rows, height - first);
          load_strip(x, height, width, plan.kernel / 2, first, rows, strip.pitch, buffer);
          const float* gradient = as_floats(dy, converted);
          if constexpr (!std::is_same_v<T, float>) convert(dy, rows * width, converted);
          // Few rows at a time: short sums are more exact.
          for (int r = 0; r < rows; r += kRowsPerSum) {
            add_gradient(buffer + r * strip.pitch, strip.pitch, gradient + r * width, std::min(kRowsPerSum, rows - r),
                         width, sums);
          }
        }
      }
      float* dweight = static_cast<float*>(task.dweight.data) + c * taps(plan);
      for (int i = 0; i < taps(plan); ++i) dweight[i] = sum_of_lanes(sums[i]);
    }
  });
}

// --------------------------------------------------------------- one channel per lane

// Output pixels of one row, from `column` on; rows[u] is the input row of kernel row u.
template <int Pixels>
PPREPLK_INLINE void sum_pixels(const Vec* const* rows, int kernel, const Vec* weight, int column, Vec* y) {
  Vec sum[Pixels] = {};
  for (int u = 0; u < kernel; ++u) {
    const Vec* input = rows[u] + column;
    for (int k = 0; k < kernel; ++k, ++weight, ++input) {
      PPREPLK_UNROLL
      for (int p = 0; p < Pixels; ++p) sum[p] += input[p] * *weight;
    }
  }
  PPREPLK_UNROLL
  for (int p = 0; p < Pixels; ++p) y[column + p] = sum[p];
}

// The last `kernel` rows of a map, between zeros on the left and on the right.
struct Ring {
  Ring(const Plan& plan, Arena& arena)
      : kernel(plan.kernel),
        height(plan.height.extent),
        width(plan.width.extent),
        pitch(width + kernel - 1),
        memory(arena.take(int64_t{kernel} * pitch)) {
    std::fill_n(memory, int64_t{kernel} * pitch, Vec{});
  }

  // Row i of the map is row i % kernel here; a row below the map is zero.
  void load_row(const Source& x, int row) {
    Vec* out = memory + row % kernel * pitch + kernel / 2;
    if (row < height) {
      load_run(x, row, 0, width, out);
    } else {
      std::fill_n(out, width, Vec{});
    }
  }

  // Begins a map: what row 0 sees above itself is zero.
  void begin(const Source& x) {
    for (int row = height; row < height + kernel; ++row) load_row(x, row);
    for (int row = 0; row < std::min(kernel / 2, height); ++row) load_row(x, row);
  }

  // Loads what output row `row` sees in addition, and points rows[u] to the row under kernel row u.
  void advance(const Source& x, int row, const Vec** rows) {
    load_row(x, row + kernel / 2);
    for (int u = 0; u < kernel; ++u) rows[u] = memory + (row + u - kernel / 2 + kernel) % kernel * pitch;
  }

  const int kernel, height, width, pitch;
  Vec* const memory;
};

inline void forward_lanes(const Plan& plan, const Source& x, const float* packed, const Target& y,
                          const Epilogue& epilogue, Arena arena) {
  constexpr int kPixels = kRegisters >= 32 ? 14 : 7;
  const int kernel = plan.kernel, width = plan.width.extent;
  Vec* weight = arena.take(taps(plan));
  load_nchw(packed, taps(plan), kLanes, static_cast<int>(taps(plan)), weight);
  Vec* output = arena.take(width);
  Ring ring(plan, arena);
  ring.begin(x);
  for (int row = 0; row < plan.height.extent; ++row) {
    const Vec* rows[kMaxDirectKernel];
    ring.advance(x, row, rows);
    int column = 0;
    for (; column + kPixels <= width; column += kPixels) {
      sum_pixels<kPixels>(rows, kernel, weight, column, output);
    }
    for (; column + 4 <= width; column += 4) sum_pixels<4>(rows, kernel, weight, column, output);
    for (; column < width; ++column) sum_pixels<1>(rows, kernel, weight, column, output);
    store_run(output, epilogue, row, 0, width, y);
  }
}

// Adds the gradient from one output row.
template <int Kernel>
[[gnu::noinline]] void weight_gradient_of_row(const Vec* const* rows, const Vec* dy, int width, Vec* dweight) {
  // Kernel rows whose sums fit in the registers.
  constexpr int kGroup = std::clamp((kRegisters - 3) / Kernel, 1, Kernel);
  for (int u = 0; u < Kernel; u += kGroup) {
    Vec sum[kGroup][Kernel] = {};
    for (int c = 0; c < width; ++c) {
      const Vec d = dy[c];
      PPREPLK_UNROLL
      for (int i = 0; i < kGroup; ++i) {
        // The last group may be larger than what is left of the kernel; what it sums there is not used.
        const Vec* x = rows[std::min(u + i, Kernel - 1)] + c;
        PPREPLK_UNROLL
        for (int k = 0; k < Kernel; ++k) sum[i][k] += d * x[k];
      }
    }
    for (int i = 0; i < std::min(kGroup, Kernel - u); ++i) {
      for (int k = 0; k < Kernel; ++k) dweight[(u + i) * Kernel + k] += sum[i][k];
    }
  }
}

inline void weight_gradient_of_lanes(const Plan& plan, const BackwardTask& task, Arena arena) {
  void (*add_gradient)(const Vec* const*, const Vec*, int, Vec*) = nullptr;
  with_kernel(plan.kernel, [&](auto kernel) { add_gradient = weight_gradient_of_row<kernel.value>; });
  const int height = plan.height.extent, width = plan.width.extent;
  Vec* sums = arena.take(taps(plan));
  Vec* sums_of_image = arena.take(taps(plan));  // short sums are more exact
  Vec* gradient = arena.take(width);
  Ring ring(plan, arena);
  std::fill_n(sums, taps(plan), Vec{});
  for (int image = 0; image < task.images; ++image) {
    const Source x = image_of(task.x, image * task.image_bytes), dy = image_of(task.dy, image * task.image_bytes);
    std::fill_n(sums_of_image, taps(plan), Vec{});
    ring.begin(x);
    for (int row = 0; row < height; ++row) {
      const Vec* rows[kMaxDirectKernel];
      ring.advance(x, row, rows);
      load_run(dy, row, 0, width, gradient);
      add_gradient(rows, gradient, width, sums_of_image);
    }
    for (int i = 0; i < taps(plan); ++i) sums[i] += sums_of_image[i];
  }
  store_run(sums, {}, 0, 0, static_cast<int>(taps(plan)), task.dweight);
}

// ---------------------------------------------------------------------- entry points

inline int64_t scratch_floats(const Plan& plan, bool backward) {
  const int64_t lanes = taps(plan) + (int64_t{plan.kernel} + 1) * (plan.width.extent + plan.kernel);
  const int64_t planes = 2 * strip_of(plan).floats / kLanes;
  const int64_t gradients = backward ? 2 * taps(plan) : 0;
  return (std::max(lanes, planes) + gradients) * kLanes;
}

inline void pack(const Plan& plan, const Source& weight, float* packed) {
  const int64_t count = weight.channels * taps(plan);
  std::copy_n(static_cast<const float*>(weight.data), count, packed);
  std::fill(packed + count, packed + packed_floats(plan), 0.0f);
}

inline void forward(const Plan& plan, const Source& x, const float* packed, const Target& y, const Epilogue& epilogue,
                    Arena arena) {
  if (x.layout == Layout::nchw) {
    forward_planes(plan, x, packed, y, epilogue, arena);
  } else {
    forward_lanes(plan, x, packed, y, epilogue, arena);
  }
}

inline void backward(const Plan& plan, const BackwardTask& task, Arena arena) {
  const bool planes = task.x.layout == Layout::nchw;
  if (task.dx.data) {
    Arena rest = arena;
    float* flipped = reinterpret_cast<float*>(rest.take(taps(plan)));
    flip(task.weight, taps(plan), flipped);
    std::fill(flipped + task.weight.channels * taps(plan), flipped + packed_floats(plan), 0.0f);
    for (int image = 0; image < task.images; ++image) {
      const int64_t offset = image * task.image_bytes;
      const auto convolve = planes ? forward_planes : forward_lanes;
      convolve(plan, image_of(task.dy, offset), flipped, image_of(task.dx, offset), {}, rest);
    }
  }
  if (task.dweight.data) (planes ? weight_gradient_of_planes : weight_gradient_of_lanes)(plan, task, arena);
}

}  // namespace direct
