// Convolution of narrow maps as multiplication with Toeplitz matrices: every pixel of an input row contributes to every
// pixel of an output row. The width is a constant, so that loops over a row are unrolled and sums stay in registers.
// Included inside a namespace.
//
// Packed weights of a block: [height.kernel + 2 * kZeroRows][2 * width - 1] vectors; the
// kernel is cropped to 2 * width - 1 columns, or padded to them with zeros. The rows of zeros before and after it are
// for input rows that are too far from an output row to contribute to it.

namespace toeplitz {

constexpr int kMaxRows = 4;  // output rows computed together
constexpr int kZeroRows = kMaxRows - 1;

// Output rows whose sums and whose taps fit in the registers: from one input pixel to the next
// all but one of the taps of a row are used again.
template <int Width>
constexpr int kRowsInRegisters = std::clamp((kRegisters - 2) / (2 * Width), 1, kMaxRows);

inline int taps_per_row(const Plan& plan) { return 2 * plan.width.extent - 1; }
inline int64_t packed_rows(const Plan& plan) { return plan.height.kernel + 2 * kZeroRows; }
inline int pixels(const Plan& plan) { return plan.height.extent * plan.width.extent; }

// Output rows `first` to `first` + Rows - 1. `weight` points to the first tap of the kernel.
template <int Width, int Rows>
[[gnu::noinline]] void compute_rows(const Vec* x, int height, const float* weight, int pad, int first, Vec* y) {
  constexpr int kTaps = 2 * Width - 1;
  Vec sum[Rows][Width] = {};
  const int end = std::min(height, first + Rows + pad);
  for (int i = std::max(0, first - pad); i < end; ++i) {
    // The tap that leads from input pixel (i, c) to output pixel (first + r, o) lies
    // c - o columns and -r rows from here.
    const float* taps = weight + ((i - first + pad) * kTaps + Width - 1) * kLanes;
    PPREPLK_UNROLL
    for (int c = 0; c < Width; ++c) {
      const Vec input = x[i * Width + c];
      PPREPLK_UNROLL
      for (int r = 0; r < Rows; ++r) {
        PPREPLK_UNROLL
        for (int o = 0; o < Width; ++o) {
          sum[r][o] += input * load(taps + (c - o - r * kTaps) * kLanes);
        }
      }
    }
  }
  PPREPLK_UNROLL
  for (int r = 0; r < Rows; ++r) {
    PPREPLK_UNROLL
    for (int o = 0; o < Width; ++o) y[(first + r) * Width + o] = sum[r][o];
  }
}

// `left` output rows from row `first` on, 1 <= left <= Rows.
template <int Width, int Rows>
void compute_up_to(const Vec* x, int height, const float* weight, int pad, int first, int left, Vec* y) {
  if (left == Rows) return compute_rows<Width, Rows>(x, height, weight, pad, first, y);
  if constexpr (Rows > 1) compute_up_to<Width, Rows - 1>(x, height, weight, pad, first, left, y);
}

template <int Width>
struct Map {
  static void forward(const Plan& plan, const Vec* x, const float* packed, Vec* y) {
    constexpr int kRows = kRowsInRegisters<Width>;
    const int height = plan.height.extent;
    const float* weight = packed + kZeroRows * (2 * Width - 1) * kLanes;
    const int parts = (height + kRows - 1) / kRows, step = (height + parts - 1) / parts;
    for (int first = 0; first < height; first += step) {
      compute_up_to<Width, kRows>(x, height, weight, plan.height.pad, first, std::min(step, height - first), y);
    }
  }

  // Adds to the gradient of the weights, [height.kernel][2 * Width - 1].
  static void weight_gradient(const Plan& plan, const Vec* x, const Vec* dy, Vec* dweight) {
    constexpr int kTaps = 2 * Width - 1, kRowsInSum = 8;
    const int height = plan.height.extent, pad = plan.height.pad;
    for (int u = 0; u < plan.height.kernel; ++u, dweight += kTaps) {
      const int end = std::min(height, height + pad - u);
      // A few rows are summed at a time, and then these sums: that rounds less than one long sum.
      for (int first = std::max(0, pad - u); first < end; first += kRowsInSum) {
        Vec sum[kTaps] = {};
        for (int row = first; row < std::min(end, first + kRowsInSum); ++row) {
          const Vec* x_row = x + (row + u - pad) * Width;
          const Vec* dy_row = dy + row * Width;
          PPREPLK_UNROLL
          for (int c = 0; c < Width; ++c) {
            const Vec input = x_row[c];
            PPREPLK_UNROLL
            for (int o = 0; o < Width; ++o) sum[c - o + Width - 1] += input * dy_row[o];
          }
        }
        PPREPLK_UNROLL
        for (int v = 0; v < kTaps; ++v) dweight[v] += sum[v];
      }
    }
  }
};

// Calls use(Map<width>{}) for the width of the map.
template <int Width = kMaxToeplitzWidth, class Use>
void with_width(int width, Use use) {
  if (width == Width) return use(Map<Width>{});
  if constexpr (Width > 1) with_width<Width - 1>(width, use);
}

inline int64_t packed_floats(const Plan& plan) { return packed_rows(plan) * taps_per_row(plan) * kLanes; }

inline int64_t scratch_floats(const Plan& plan, bool backward) {
  const int64_t kernel = int64_t{plan.height.kernel} * plan.width.kernel;
  int64_t vectors = std::max<int64_t>(kernel, 2 * pixels(plan));
  if (backward) vectors += (packed_rows(plan) + plan.height.kernel) * taps_per_row(plan) + pixels(plan);
  return vectors * kLanes;
}

// The taps that can touch the map.
inline Window kernel_window(const Plan& plan) {
  return {(plan.kernel - plan.height.kernel) / 2, plan.height.kernel, (plan.kernel - plan.width.kernel) / 2,
          plan.width.kernel};
}

inline void pack(const Plan& plan, const Source& weight, bool flipped, float* packed, Arena arena) {
  const Window window = kernel_window(plan);
  Vec* taps = arena.take(int64_t{window.rows} * window.columns);
  load_window(weight, window, taps);
  if (flipped) std::reverse(taps, taps + window.rows * window.columns);
  std::fill_n(packed, packed_floats(plan), 0.0f);
  const int margin = (taps_per_row(plan) - window.columns) / 2;
  for (int u = 0; u < window.rows; ++u) {
    float* row = packed + (int64_t{kZeroRows + u} * taps_per_row(plan) + margin) * kLanes;
    for (int v = 0; v < window.columns; ++v) store(row + v * kLanes, taps[u * window.columns + v]);
  }
}

inline void forward(const Plan& plan, const Source& x, const float* packed, const Target& y, const Epilogue& epilogue,
                    Arena arena) {
  Vec* input = arena.take(pixels(plan));
  Vec* output = arena.take(pixels(plan));
  load_run(x, 0, 0, pixels(plan), input);
  with_width(plan.width.extent, [&](auto map) { map.forward(plan, input, packed, output); });
  store_run(output, epilogue, 0, 0, pixels(plan), y);
}

inline void backward(const Plan& plan, const BackwardTask& task, Arena arena) {
  const int64_t taps = int64_t{plan.height.kernel} * taps_per_row(plan);
  float* packed = reinterpret_cast<float*>(arena.take(packed_rows(plan) * taps_per_row(plan)));
  Vec* dweight = arena.take(taps);
  if (task.dx.data) pack(plan, task.weight, true, packed, arena);
  std::fill_n(dweight, taps, Vec{});

  Vec* x = arena.take(pixels(plan));
  Vec* dy = arena.take(pixels(plan));
  Vec* dx = arena.take(pixels(plan));
  with_width(plan.width.extent, [&](auto map) {
    for (int image = 0; image < task.images; ++image) {
      const int64_t offset = image * task.image_bytes;
      load_run(image_of(task.dy, offset), 0, 0, pixels(plan), dy);
      if (task.dx.data) {
        map.forward(plan, dy, packed, dx);
        store_run(dx, {}, 0, 0, pixels(plan), image_of(task.dx, offset));
      }
      if (task.dweight.data) {
        load_run(image_of(task.x, offset), 0, 0, pixels(plan), x);
        map.weight_gradient(plan, x, dy, dweight);
      }
    }
  });

  if (task.dweight.data) {
    const Window window = kernel_window(plan);
    zero_fill(task.dweight, int64_t{plan.kernel} * plan.kernel);
    const int margin = (taps_per_row(plan) - window.columns) / 2;
    for (int u = 0; u < window.rows; ++u) {
      store_run(dweight + u * taps_per_row(plan) + margin, {}, window.row + u, window.column, window.columns,
                task.dweight);
    }
  }
}

}  // namespace toeplitz
