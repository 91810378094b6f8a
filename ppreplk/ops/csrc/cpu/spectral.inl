// Convolution by two-dimensional Fourier transforms. Included inside a namespace.
//
// Rows are transformed first. Two real rows are the real and imaginary parts of one complex transform, whose result is
// split into the two half spectra (length / 2 + 1 bins; the rest mirrors them). The split leaves out the factor 1/2,
// and the inverse transforms leave out theirs; the scale of the epilogue corrects both.
//
// The half spectra of a map are kept as `bins` columns of complex numbers, one per map row,
// `pitch` numbers from column to column. Columns are transformed one at a time, multiplied
// with the spectrum of the weights, and transformed back in place.
//
// Packed weights of a block: [bins][height.length] complex vectors.

namespace spectral {

inline int bins(const Plan& plan) { return plan.width.length / 2 + 1; }

// The maximum number of pixels along this axis, of a map or kernel, that are transformed at once.
inline int max_pixels(const Axis& axis) {
  return std::max(std::min(axis.tile + 2 * axis.pad, axis.extent), axis.kernel);
}

// The distance between columns of half spectra: an even number of complex rows, and one more so that the columns do not
// all fall into the same cache sets.
inline int pitch(const Plan& plan) { return (max_pixels(plan.height) + 1) / 2 * 2 + 1; }

inline int64_t half_spectra_size(const Plan& plan) { return int64_t{bins(plan)} * pitch(plan); }
inline int64_t spectrum_size(const Plan& plan) { return int64_t{bins(plan)} * plan.height.length; }

inline Complex* take_complex(Arena& arena, int64_t count) { return reinterpret_cast<Complex*>(arena.take(2 * count)); }

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
inline Extent weight_extent(const Axis& axis, int kernel) { return {(kernel - axis.kernel) / 2, axis.kernel, 0}; }

struct Area {
  Extent rows, columns;
};
inline Area input_area(const Plan& plan, int tile) {
  return {input_extent(plan.height, tile / plan.width.tiles), input_extent(plan.width, tile % plan.width.tiles)};
}
inline Area output_area(const Plan& plan, int tile) {
  return {output_extent(plan.height, tile / plan.width.tiles), output_extent(plan.width, tile % plan.width.tiles)};
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
inline void transform_rows(const Plan& plan, const Source& x, const Area& area, Complex* spectra, int pitch,
                           Arena arena) {
  const int length = plan.width.length;
  const int rows = area.rows.count, columns = area.columns.count;
  const int step = rows_at_a_time(area);
  const Transforms& transforms = find_transforms(length);
  Vec* pixels = arena.take(step * columns);
  Complex* line = take_complex(arena, length);
  for (int first = 0; first < rows; first += step) {
    const int count = std::min(step, rows - first);
    load_window(x, {area.rows.begin + first, count, area.columns.begin, columns}, pixels);
    if (count % 2) std::fill_n(pixels + count * columns, columns, Vec{});
    for (int r = 0; r < count; r += 2) {
      const Vec* row = pixels + r * columns;
      transforms.forward_rows(row, row + columns, area.columns.offset, columns, line);
      Complex* out = spectra + first + r;
      for (int k = 0; k < bins(plan); ++k, out += pitch) {
        const Complex a = line[k], b = line[k == 0 ? 0 : length - k];
        out[0] = {a.re + b.re, a.im - b.im};
        out[1] = {a.im + b.im, b.re - a.re};
      }
    }
  }
}

// Half spectra of rows back to the map.
inline void invert_rows(const Plan& plan, const Complex* spectra, int pitch, const Area& area, const Epilogue& epilogue,
                        const Target& y, Arena arena) {
  const int length = plan.width.length;
  const int rows = area.rows.count, columns = area.columns.count;
  const int step = rows_at_a_time(area);
  const Transforms& transforms = find_transforms(length);
  Vec* pixels = arena.take(step * columns);
  Complex* line = take_complex(arena, length);
  for (int first = 0; first < rows; first += step) {
    const int count = std::min(step, rows - first);
    for (int r = 0; r < count; r += 2) {
      const Complex* in = spectra + first + r;
      const bool paired = r + 1 < count;
      for (int k = 0; k < bins(plan); ++k, in += pitch) {
        const Complex a = in[0], b = paired ? in[1] : Complex{};
        if (k > 0) line[length - k] = {a.re + b.im, b.re - a.im};
        line[k] = {a.re - b.im, a.im + b.re};
      }
      Vec* row = pixels + r * columns;
      transforms.inverse_rows(line, area.columns.offset, columns, row, row + columns);
    }
    store_window(pixels, epilogue, {area.rows.begin + first, count, area.columns.begin, columns}, y);
  }
}

// Undoes the factors of the two transforms (length) and of the split spectra (2 each).
inline float scale(const Plan& plan) {
  return 0.25f / (static_cast<float>(plan.height.length) * static_cast<float>(plan.width.length));
}

inline int64_t packed_floats(const Plan& plan) { return 2 * spectrum_size(plan) * kLanes; }

inline int64_t scratch_floats(const Plan& plan, bool backward) {
  const int64_t pixels = std::max(256, 2 * max_pixels(plan.width));
  int64_t numbers = half_spectra_size(plan) + 2 * plan.height.length + plan.width.length;
  int64_t flipped_weight = 0;
  if (backward) {
    numbers += half_spectra_size(plan) + 2 * spectrum_size(plan);
    flipped_weight = int64_t{plan.kernel} * plan.kernel;
  }
  return (2 * numbers + pixels + flipped_weight) * kLanes;
}

inline void pack(const Plan& plan, const Source& weight, float* packed, Arena arena) {
  const Area area = weight_area(plan);
  const int length = plan.height.length;
  const Transforms& transforms = find_transforms(length);
  Complex* spectra = take_complex(arena, half_spectra_size(plan));
  Complex* line = take_complex(arena, length);
  transform_rows(plan, weight, area, spectra, pitch(plan), arena);
  for (int k = 0; k < bins(plan); ++k) {
    transforms.forward_column(spectra + k * pitch(plan), 0, area.rows.count, line);
    for (int i = 0; i < length; ++i, packed += 2 * kLanes) {
      store(packed, line[i].re);
      store(packed + kLanes, line[i].im);
    }
  }
}

// Spectra are large: between two uses they leave the cache.
inline void prefetch(const float* p, int64_t floats) {
  constexpr int kCacheLine = 16;
  for (int64_t i = 0; i < floats; i += kCacheLine) __builtin_prefetch(p + i);
}

// y = x * conj(weight) in the frequency domain, which is cross-correlation.
inline void forward(const Plan& plan, int tile, const Source& x, const float* packed, const Target& y,
                    Epilogue epilogue, Arena arena) {
  const Area in = input_area(plan, tile), out = output_area(plan, tile);
  const Transforms& transforms = find_transforms(plan.height.length);
  const int64_t line_floats = int64_t{2} * plan.height.length * kLanes;
  Complex* spectra = take_complex(arena, half_spectra_size(plan));
  transform_rows(plan, x, in, spectra, pitch(plan), arena);
  for (int k = 0; k < bins(plan); ++k) {
    const float* weight = packed + k * line_floats;
    if (k + 1 < bins(plan)) prefetch(weight + line_floats, line_floats);
    transforms.correlate_column(spectra + k * pitch(plan), in.rows.offset, in.rows.count, weight, out.rows.offset,
                                out.rows.count);
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
  const bool wants_dweight = task.dweight.data;
  const bool fused_dx = task.dx.data && plan.tiles() == 1;
  const bool separate_dx = task.dx.data && !fused_dx;
  const int length = plan.height.length;
  const Transforms& transforms = find_transforms(length);
  float* packed = reinterpret_cast<float*>(take_complex(arena, spectrum_size(plan)));
  Complex* sum = take_complex(arena, spectrum_size(plan));
  if (separate_dx) {
    const int64_t taps = int64_t{plan.kernel} * plan.kernel;
    float* flipped = reinterpret_cast<float*>(arena.take(taps));
    pack(plan, flip(task.weight, taps, flipped), packed, arena);
  } else if (fused_dx) {
    pack(plan, task.weight, packed, arena);
  }
  if (wants_dweight) std::fill_n(sum, spectrum_size(plan), Complex{});

  for (int image = 0; image < task.images; ++image) {
    const Source x = image_of(task.x, image * task.image_bytes);
    const Source dy = image_of(task.dy, image * task.image_bytes);
    const Target dx = image_of(task.dx, image * task.image_bytes);
    for (int tile = 0; tile < plan.tiles(); ++tile) {
      if (separate_dx) forward(plan, tile, dy, packed, dx, {}, arena);
      if (!fused_dx && !wants_dweight) continue;

      Arena rest = arena;
      const Area in = input_area(plan, tile), out = output_area(plan, tile);
      Complex* x_spectra = take_complex(rest, half_spectra_size(plan));
      Complex* dy_spectra = take_complex(rest, half_spectra_size(plan));
      Complex* x_line = take_complex(rest, length);
      Complex* dy_line = take_complex(rest, length);
      if (wants_dweight) transform_rows(plan, x, in, x_spectra, pitch(plan), rest);
      transform_rows(plan, dy, out, dy_spectra, pitch(plan), rest);
      for (int k = 0; k < bins(plan); ++k) {
        Complex* dy_column = dy_spectra + k * pitch(plan);
        transforms.forward_column(dy_column, out.rows.offset, out.rows.count, dy_line);
        if (wants_dweight) {
          transforms.forward_column(x_spectra + k * pitch(plan), in.rows.offset, in.rows.count, x_line);
          Complex* sum_line = sum + int64_t{k} * length;
          for (int i = 0; i < length; ++i) {
            sum_line[i] = sum_line[i] + times_conjugate(x_line[i], dy_line[i]);
          }
        }
        if (fused_dx) {
          const float* weight_line = packed + int64_t{2} * k * length * kLanes;
          for (int i = 0; i < length; ++i) {
            dy_line[i] = times(dy_line[i], load_complex(weight_line + 2 * i * kLanes));
          }
          transforms.inverse_column(dy_line, in.rows.offset, in.rows.count, dy_column);
        }
      }
      if (fused_dx) invert_rows(plan, dy_spectra, pitch(plan), in, {scale(plan)}, dx, rest);
    }
  }

  if (wants_dweight) {
    const Area area = weight_area(plan);
    Complex* spectra = take_complex(arena, half_spectra_size(plan));
    for (int k = 0; k < bins(plan); ++k) {
      transforms.inverse_column(sum + int64_t{k} * length, 0, area.rows.count, spectra + k * pitch(plan));
    }
    zero_fill(task.dweight, int64_t{plan.kernel} * plan.kernel);
    invert_rows(plan, spectra, pitch(plan), area, {scale(plan)}, task.dweight, arena);
  }
}

}  // namespace spectral
