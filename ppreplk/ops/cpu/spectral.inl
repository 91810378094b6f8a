// Convolution by two-dimensional Fourier transforms. Included inside a namespace.
//
// Rows first: two real rows are the real and imaginary parts of one complex transform, whose
// result is split into the two half spectra (length / 2 + 1 bins; the rest is their mirror
// image). Splitting without the factor 1/2 leaves spectra twice too large; that and the
// factors of the inverse transforms are made good by the scale of the epilogue.
//
// The half spectra of a map are kept as `bins` columns of complex numbers, one per map row,
// `pitch` vectors from column to column. Columns are transformed one at a time, multiplied
// with the spectrum of the weights, and transformed back in place.
//
// Packed weights of a block: [bins][height.length] complex vectors.

namespace spectral {

inline int bins(const Plan& plan) { return plan.width.length / 2 + 1; }

inline int64_t spectrum_vectors(const Plan& plan) {
  return int64_t{2} * bins(plan) * plan.height.length;
}

// The most rows and columns of a map or kernel that are transformed at once.
inline int most_pixels(const Axis& axis) {
  return std::max(std::min(axis.tile + 2 * axis.pad, axis.extent), axis.kernel);
}

// From column to column of half spectra: an even number of complex rows, and some vectors
// more, lest all columns fall into the same cache sets.
inline int pitch(const Plan& plan) { return (most_pixels(plan.height) + 1) / 2 * 4 + 2; }

inline int64_t half_spectra_vectors(const Plan& plan) { return int64_t{bins(plan)} * pitch(plan); }

// Where a tile reads its inputs (x) and writes its outputs (y) in the map, and at which
// offset in the transform.
struct Extent {
  int begin, count, offset;
};
inline Extent input_extent(const Axis& axis, int tile) {
  const int first = tile * axis.tile - axis.pad;
  const int begin = std::max(first, 0);
  const int last = std::min((tile + 1) * axis.tile, axis.extent) + axis.pad;
  return {begin, std::min(last, axis.extent) - begin, begin - first};
}
inline Extent output_extent(const Axis& axis, int tile) {
  const int begin = tile * axis.tile;
  return {begin, std::min(axis.tile, axis.extent - begin), 0};
}
// The taps that can touch the map: the middle of the kernel.
inline Extent weight_extent(const Axis& axis, int kernel) {
  return {(kernel - axis.kernel) / 2, axis.kernel, 0};
}

struct Area {
  Extent rows, columns;
};
inline Area input_area(const Plan& plan, int tile) {
  return {input_extent(plan.height, tile / plan.width.tiles),
          input_extent(plan.width, tile % plan.width.tiles)};
}
inline Area output_area(const Plan& plan, int tile) {
  return {output_extent(plan.height, tile / plan.width.tiles),
          output_extent(plan.width, tile % plan.width.tiles)};
}
inline Area weight_area(const Plan& plan) {
  return {weight_extent(plan.height, plan.kernel), weight_extent(plan.width, plan.kernel)};
}

// Rows that go from memory to lanes, or back, at a time: pairs of rows, and enough pixels to
// make the transposition efficient.
inline int rows_at_a_time(const Area& area) {
  return std::min((area.rows.count + 1) / 2 * 2, std::max(2, 256 / area.columns.count / 2 * 2));
}

// Map to half spectra of its rows.
inline void transform_rows(const Plan& plan, const Source& x, const Area& area, Vec* spectra,
                           int pitch, Arena arena) {
  const int length = plan.width.length;
  const int rows = area.rows.count, columns = area.columns.count;
  const int step = rows_at_a_time(area);
  const Transform transform = find_transform(length);
  Vec* pixels = arena.take(step * columns);
  Complex* line = reinterpret_cast<Complex*>(arena.take(2 * length));
  for (int first = 0; first < rows; first += step) {
    const int count = std::min(step, rows - first);
    load_window(x, {area.rows.begin + first, count, area.columns.begin, columns}, pixels);
    if (count % 2) std::fill_n(pixels + count * columns, columns, Vec{});
    for (int r = 0; r < count; r += 2) {
      const Vec* row = pixels + r * columns;
      transform({row, row + columns, 1, area.columns.offset, columns},
                {&line[0].re, &line[0].im, 2, 0, length});
      Vec* out = spectra + 2 * (first + r);
      for (int k = 0; k < bins(plan); ++k, out += pitch) {
        const Complex a = line[k], b = line[k == 0 ? 0 : length - k];
        out[0] = a.re + b.re;
        out[1] = a.im - b.im;
        out[2] = a.im + b.im;
        out[3] = b.re - a.re;
      }
    }
  }
}

// Half spectra of rows back to the map.
inline void invert_rows(const Plan& plan, const Vec* spectra, int pitch, const Area& area,
                        const Epilogue& epilogue, const Target& y, Arena arena) {
  const int length = plan.width.length;
  const int rows = area.rows.count, columns = area.columns.count;
  const int step = rows_at_a_time(area);
  const Transform transform = find_transform(length);
  Vec* pixels = arena.take(step * columns);
  Complex* line = reinterpret_cast<Complex*>(arena.take(2 * length));
  for (int first = 0; first < rows; first += step) {
    const int count = std::min(step, rows - first);
    for (int r = 0; r < count; r += 2) {
      const Vec* in = spectra + 2 * (first + r);
      const bool paired = r + 1 < count;
      for (int k = 0; k < bins(plan); ++k, in += pitch) {
        const Complex a{in[0], in[1]};
        const Complex b = paired ? Complex{in[2], in[3]} : Complex{};
        if (k > 0) line[length - k] = {a.re + b.im, b.re - a.im};
        line[k] = {a.re - b.im, a.im + b.re};
      }
      Vec* row = pixels + r * columns;
      transform(exchanged(Input{&line[0].re, &line[0].im, 2, 0, length}),
                exchanged(Output{row, row + columns, 1, area.columns.offset, columns}));
    }
    store_window(pixels, epilogue, {area.rows.begin + first, count, area.columns.begin, columns}, y);
  }
}

// One column of half spectra, as many rows as `extent` says.
template <class Vector>
auto column_run(Vector* column, const Extent& extent) {
  return Run<Vector*>{column, column + 1, 2, extent.offset, extent.count};
}

PPREPLK_INLINE Complex times(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.im * b.re + a.re * b.im};
}
PPREPLK_INLINE Complex times_conjugate(Complex a, Complex b) {
  return {a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im};
}

// Packed weights come from outside and need not be aligned.
PPREPLK_INLINE Complex load_complex(const float* p) { return {load(p), load(p + kLanes)}; }

// Undoes the factors of the two transforms (length) and of the split spectra (2 each).
inline float scale(const Plan& plan) {
  return 0.25f / (static_cast<float>(plan.height.length) * static_cast<float>(plan.width.length));
}

inline int64_t packed_floats(const Plan& plan) { return spectrum_vectors(plan) * kLanes; }

inline int64_t scratch_floats(const Plan& plan, bool backward) {
  const int64_t row_buffer = std::max(256, 2 * most_pixels(plan.width)) + 2 * plan.width.length;
  int64_t vectors = half_spectra_vectors(plan) + 4 * plan.height.length + row_buffer;
  if (backward) {
    const int64_t flipped_weight = int64_t{plan.kernel} * plan.kernel;
    vectors += half_spectra_vectors(plan) + 2 * spectrum_vectors(plan) + flipped_weight;
  }
  return vectors * kLanes;
}

inline void pack(const Plan& plan, const Source& weight, float* packed, Arena arena) {
  const Area area = weight_area(plan);
  const int length = plan.height.length;
  Vec* spectra = arena.take(half_spectra_vectors(plan));
  Vec* line = arena.take(2 * length);
  transform_rows(plan, weight, area, spectra, pitch(plan), arena);
  const Transform transform = find_transform(length);
  for (int k = 0; k < bins(plan); ++k) {
    transform(column_run<const Vec>(spectra + k * pitch(plan), area.rows),
              column_run(line, {0, length, 0}));
    for (int i = 0; i < 2 * length; ++i, packed += kLanes) store(packed, line[i]);
  }
}

// y = x * conj(weight) in the frequency domain, which is cross-correlation.
inline void forward(const Plan& plan, int tile, const Source& x, const float* packed, const Target& y,
                    Epilogue epilogue, Arena arena) {
  const Area in = input_area(plan, tile), out = output_area(plan, tile);
  const int length = plan.height.length;
  Vec* spectra = arena.take(half_spectra_vectors(plan));
  Complex* line = reinterpret_cast<Complex*>(arena.take(2 * length));
  transform_rows(plan, x, in, spectra, pitch(plan), arena);
  const Transform transform = find_transform(length);
  for (int k = 0; k < bins(plan); ++k) {
    Vec* column = spectra + k * pitch(plan);
    transform(column_run<const Vec>(column, in.rows), column_run(&line[0].re, {0, length, 0}));
    for (int i = 0; i < length; ++i, packed += 2 * kLanes) {
      line[i] = times_conjugate(line[i], load_complex(packed));
    }
    transform(exchanged(column_run<const Vec>(&line[0].re, {0, length, 0})),
              exchanged(column_run(column, out.rows)));
  }
  epilogue.scale *= scale(plan);
  invert_rows(plan, spectra, pitch(plan), out, epilogue, y, arena);
}

// The gradient of the weights is x * conj(dy), summed over images and tiles in the frequency
// domain. With one tile, the gradient of the input is dy * weight, from the same transform of
// dy; its outputs then lie where x lies, at the offset of the inputs. With several tiles, the
// outputs of a tile would need the dy of its neighbours: the gradient of the input is then a
// forward pass of its own, with the flipped kernel.
inline void backward(const Plan& plan, const BackwardTask& task, Arena arena) {
  const bool fused_dx = task.dx.data && plan.tiles() == 1;
  const bool separate_dx = task.dx.data && !fused_dx;
  const int length = plan.height.length;
  float* packed = reinterpret_cast<float*>(arena.take(spectrum_vectors(plan)));
  Complex* sum = reinterpret_cast<Complex*>(arena.take(spectrum_vectors(plan)));
  if (separate_dx) {
    const int64_t taps = int64_t{plan.kernel} * plan.kernel;
    float* flipped = reinterpret_cast<float*>(arena.take(taps));
    pack(plan, flip(task.weight, taps, flipped), packed, arena);
  } else if (fused_dx) {
    pack(plan, task.weight, packed, arena);
  }
  if (task.dweight.data) std::fill_n(sum, spectrum_vectors(plan) / 2, Complex{});

  const Transform transform = find_transform(length);
  for (int image = 0; image < task.images; ++image) {
    const Source x = image_of(task.x, image * task.image_bytes);
    const Source dy = image_of(task.dy, image * task.image_bytes);
    const Target dx = image_of(task.dx, image * task.image_bytes);
    for (int tile = 0; tile < plan.tiles(); ++tile) {
      if (separate_dx) forward(plan, tile, dy, packed, dx, {}, arena);
      if (!fused_dx && !task.dweight.data) continue;

      Arena rest = arena;
      const Area in = input_area(plan, tile), out = output_area(plan, tile);
      Vec* x_spectra = rest.take(half_spectra_vectors(plan));
      Vec* dy_spectra = rest.take(half_spectra_vectors(plan));
      Complex* x_line = reinterpret_cast<Complex*>(rest.take(2 * length));
      Complex* dy_line = reinterpret_cast<Complex*>(rest.take(2 * length));
      if (task.dweight.data) transform_rows(plan, x, in, x_spectra, pitch(plan), rest);
      transform_rows(plan, dy, out, dy_spectra, pitch(plan), rest);
      for (int k = 0; k < bins(plan); ++k) {
        Vec* dy_column = dy_spectra + k * pitch(plan);
        transform(column_run<const Vec>(dy_column, out.rows), column_run(&dy_line[0].re, {0, length, 0}));
        if (task.dweight.data) {
          transform(column_run<const Vec>(x_spectra + k * pitch(plan), in.rows),
                    column_run(&x_line[0].re, {0, length, 0}));
          Complex* sum_line = sum + k * length;
          for (int i = 0; i < length; ++i) {
            sum_line[i] = sum_line[i] + times_conjugate(x_line[i], dy_line[i]);
          }
        }
        if (fused_dx) {
          const float* weight_line = packed + int64_t{2} * k * length * kLanes;
          for (int i = 0; i < length; ++i) {
            dy_line[i] = times(dy_line[i], load_complex(weight_line + 2 * i * kLanes));
          }
          transform(exchanged(column_run<const Vec>(&dy_line[0].re, {0, length, 0})),
                    exchanged(column_run(dy_column, in.rows)));
        }
      }
      if (fused_dx) invert_rows(plan, dy_spectra, pitch(plan), in, {scale(plan)}, dx, rest);
    }
  }

  if (task.dweight.data) {
    const Area area = weight_area(plan);
    Vec* spectra = arena.take(half_spectra_vectors(plan));
    for (int k = 0; k < bins(plan); ++k) {
      transform(exchanged(column_run<const Vec>(&sum[k * length].re, {0, length, 0})),
                exchanged(column_run(spectra + k * pitch(plan), area.rows)));
    }
    zero_fill(task.dweight, int64_t{plan.kernel} * plan.kernel);
    invert_rows(plan, spectra, pitch(plan), area, {scale(plan)}, task.dweight, arena);
  }
}

}  // namespace spectral
