// Between tensors in memory and pixels in lanes: one vector per pixel, one channel per lane.
// Included inside a namespace.

// What an Epilogue does to a pixel. Functions that are not inlined take it by reference: with
// vectors among its arguments a function would return without vzeroupper, and the dispatcher,
// which is not compiled for AVX, would wait a hundred cycles or more at its first SSE instruction.
struct Finish {
  Vec scale, bias;
  bool with_relu;
  PPREPLK_INLINE Vec operator()(Vec v) const {
    v = v * scale + bias;
    return with_relu ? relu(v) : v;
  }
};

// NCHW: a channel is contiguous, so up to kLanes pixels of up to kLanes channels are transposed
// at a time. Always inlined: whole tiles, by far the majority, then have no conditions.
template <class T>
PPREPLK_INLINE void load_tile(const T* x, int64_t stride, int channels, int count, Vec* pixels) {
  Vec rows[kLanes];
  PPREPLK_UNROLL
  for (int c = 0; c < kLanes; ++c) {
    const T* row = x + c * stride;
    rows[c] = c >= channels ? Vec{} : count == kLanes ? load(row) : load_partial(row, count);
  }
  transpose(rows);
  PPREPLK_UNROLL
  for (int p = 0; p < kLanes; ++p) {
    if (p < count) pixels[p] = rows[p];
  }
}

template <class T>
PPREPLK_INLINE void store_tile(const Vec* pixels, const Finish& finish, int64_t stride, int channels, int count, T* y) {
  Vec rows[kLanes];
  PPREPLK_UNROLL
  for (int p = 0; p < kLanes; ++p) rows[p] = p < count ? finish(pixels[p]) : Vec{};
  transpose(rows);
  PPREPLK_UNROLL
  for (int c = 0; c < kLanes; ++c) {
    if (c >= channels) break;
    T* row = y + c * stride;
    if (count == kLanes) {
      store(row, rows[c]);
    } else {
      store_partial(row, rows[c], count);
    }
  }
}

// A rest of so few pixels (7x7 has 49) goes number by number: a tile would be almost empty.
constexpr int kShortRest = std::max(1, kLanes / 8);

template <class T>
PPREPLK_INLINE Vec load_pixel(const T* x, int64_t stride, int channels) {
  T values[kLanes] = {};
  if (channels == kLanes) {
    PPREPLK_UNROLL
    for (int c = 0; c < kLanes; ++c) values[c] = x[c * stride];
  } else {
    for (int c = 0; c < channels; ++c) values[c] = x[c * stride];
  }
  return load(values);
}

template <class T>
PPREPLK_INLINE void store_pixel(Vec v, int64_t stride, int channels, T* y) {
  T values[kLanes];
  store(values, v);
  for (int c = 0; c < channels; ++c) y[c * stride] = values[c];
}

template <class T>
[[gnu::noinline]] void load_nchw(const T* x, int64_t stride, int channels, int count, Vec* pixels) {
  int i = 0;
  if (channels == kLanes) {
    for (; i + kLanes <= count; i += kLanes) load_tile(x + i, stride, kLanes, kLanes, pixels + i);
  }
  for (; i + kShortRest < count; i += kLanes) {
    load_tile(x + i, stride, channels, std::min(count - i, kLanes), pixels + i);
  }
  for (; i < count; ++i) pixels[i] = load_pixel(x + i, stride, channels);
}

template <class T>
[[gnu::noinline]] void store_nchw(const Vec* pixels, const Finish& finish, int64_t stride, int channels, int count,
                                  T* y) {
  int i = 0;
  if (channels == kLanes) {
    for (; i + kLanes <= count; i += kLanes) {
      store_tile(pixels + i, finish, stride, kLanes, kLanes, y + i);
    }
  }
  for (; i + kShortRest < count; i += kLanes) {
    store_tile(pixels + i, finish, stride, channels, std::min(count - i, kLanes), y + i);
  }
  for (; i < count; ++i) store_pixel(finish(pixels[i]), stride, channels, y + i);
}

// NHWC: the channels of a pixel are contiguous.
template <class T>
void load_nhwc(const T* x, int64_t stride, int channels, int count, Vec* pixels) {
  for (int i = 0; i < count; ++i) {
    pixels[i] = channels == kLanes ? load(x + i * stride) : load_partial(x + i * stride, channels);
  }
}

template <class T>
void store_nhwc(const Vec* pixels, const Finish& finish, int64_t stride, int channels, int count, T* y) {
  for (int i = 0; i < count; ++i) {
    const Vec v = finish(pixels[i]);
    if (channels == kLanes) {
      store(y + i * stride, v);
    } else {
      store_partial(y + i * stride, v, channels);
    }
  }
}

// Calls use(T{}) with the element type of a tensor. By reference and inlined: a copy of the
// captures would be read in wider words than it was written, and wait for all earlier stores.
template <class Use>
PPREPLK_INLINE void with_type(Dtype dtype, const Use& use) {
  switch (dtype) {
    case Dtype::float32: return use(float{});
    case Dtype::float16: return use(Half{});
    case Dtype::bfloat16: return use(Bfloat16{});
  }
}

// `count` pixels that follow one another in memory, from pixel (row, column) on.
inline void load_run(const Source& x, int row, int column, int count, Vec* pixels) {
  const int64_t first = static_cast<int64_t>(row) * x.width + column;
  with_type(x.dtype, [&](auto type) {
    const auto* data = static_cast<const decltype(type)*>(x.data);
    if (x.layout == Layout::nchw) {
      load_nchw(data + first, x.stride, x.channels, count, pixels);
    } else {
      load_nhwc(data + first * x.stride, x.stride, x.channels, count, pixels);
    }
  });
}

inline void store_run(const Vec* pixels, const Epilogue& epilogue, int row, int column, int count, const Target& y) {
  const int64_t first = static_cast<int64_t>(row) * y.width + column;
  Finish finish{broadcast(epilogue.scale), Vec{}, epilogue.relu};
  if (epilogue.bias) {
    finish.bias = y.channels == kLanes ? load(epilogue.bias) : load_partial(epilogue.bias, y.channels);
  }
  with_type(y.dtype, [&](auto type) {
    auto* data = static_cast<decltype(type)*>(y.data);
    if (y.layout == Layout::nchw) {
      store_nchw(pixels, finish, y.stride, y.channels, count, data + first);
    } else {
      store_nhwc(pixels, finish, y.stride, y.channels, count, data + first * y.stride);
    }
  });
}

// Part of a map: rows and columns of it.
struct Window {
  int row, rows, column, columns;
};

// rows x columns pixels, one row after the other without gaps.
inline void load_window(const Source& x, const Window& window, Vec* pixels) {
  if (window.columns == x.width) {
    return load_run(x, window.row, 0, window.rows * window.columns, pixels);
  }
  for (int r = 0; r < window.rows; ++r) {
    load_run(x, window.row + r, window.column, window.columns, pixels + r * window.columns);
  }
}

inline void store_window(const Vec* pixels, const Epilogue& epilogue, const Window& window, const Target& y) {
  if (window.columns == y.width) {
    return store_run(pixels, epilogue, window.row, 0, window.rows * window.columns, y);
  }
  for (int r = 0; r < window.rows; ++r) {
    store_run(pixels + r * window.columns, epilogue, window.row + r, window.column, window.columns, y);
  }
}

// The same block of channels, `bytes` further on.
inline Source image_of(Source x, int64_t bytes) {
  x.data = static_cast<const char*>(x.data) + bytes;
  return x;
}
inline Target image_of(Target y, int64_t bytes) {
  if (y.data) y.data = static_cast<char*>(y.data) + bytes;
  return y;
}

// Weights (float32) with each kernel turned by half a turn, written to `flipped`.
inline Source flip(Source weight, int64_t taps, float* flipped) {
  const float* data = static_cast<const float*>(weight.data);
  for (int c = 0; c < weight.channels; ++c) {
    std::reverse_copy(data + c * taps, data + (c + 1) * taps, flipped + c * taps);
  }
  weight.data = flipped;
  return weight;
}

inline void zero_fill(const Target& weight, int64_t taps) {
  std::fill_n(static_cast<float*>(weight.data), weight.channels * taps, 0.0f);
}

// Hands out parts of the scratch memory.
class Arena {
 public:
  explicit Arena(float* memory) : next_(reinterpret_cast<Vec*>(memory)) {}
  Vec* take(int64_t vectors) {
    Vec* result = next_;
    next_ += vectors;
    return result;
  }

 private:
  Vec* next_;
};
