// What the dispatcher (depthwise.cpp), the planner (plan.cpp) and the kernels of each instruction set share.
//
// All kernels work on one *block* of channels at a time: as many channels as a SIMD register
// has lanes, one channel per lane. Lanes never mix, so a NaN stays in its channel. The last
// block may be partly empty; its empty lanes compute on zeros and are not stored.
#pragma once

#include <cstdint>

#include "depthwise.h"

namespace ppreplk {

struct Half {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

enum class Algorithm : int32_t { spectral = 1, toeplitz = 2, direct = 3 };

// The widest map for Algorithm::toeplitz, and the largest kernel for Algorithm::direct.
inline constexpr int kMaxToeplitzWidth = 8;
inline constexpr int kMaxDirectKernel = 5;

// One dimension (height or width) of a spectral convolution.
//
// Inputs are at offset `pad` of a circular transform, weights and outputs at offset 0. If length >= extent + pad, what
// wraps around falls on zeros or on outputs that nobody reads. A map too large for that is cut into tiles
// (overlap-save): every tile reads `pad` more inputs on each side, and needs length >= tile + 2 * pad.
struct Axis {
  int extent;  // pixels of the map
  int kernel;  // taps that can touch the map: at most 2 * extent - 1
  int pad;     // kernel / 2
  int length;  // of the transform
  int tiles;
  int tile;  // outputs per tile
};

// How a problem is solved. Algorithm::spectral uses all of `height` and `width`, the other algorithms only the extents
// and the kernels.
struct Plan {
  Algorithm algorithm;
  int kernel;  // as given, before it is cropped to the map
  Axis height, width;
  int tiles() const { return height.tiles * width.tiles; }
};

// The fastest algorithm and transforms for a problem, by rules that were measured.
Plan make_plan(const Problem& problem);

// A block of channels of one image (or of the weights) in memory.
template <class Pointer>
struct View {
  Pointer data;  // first channel of the block, first pixel
  Dtype dtype;
  Layout layout;
  int64_t stride;  // elements from channel to channel (NCHW) or from pixel to pixel (NHWC)
  int width;       // pixels per row
  int channels;    // channels in this block: at most the number of lanes
};
using Source = View<const void*>;
using Target = View<void*>;

// What is done to the results on their way to memory: scale, bias, ReLU.
struct Epilogue {
  float scale = 1.0f;
  const float* bias = nullptr;  // of the first channel of the block
  bool relu = false;
};

// Computing the gradients of a block of channels, summed over some images.
struct BackwardTask {
  Source x, dy, weight;
  Target dx, dweight;  // data is null for a gradient that is not wanted
  int images;
  int64_t image_bytes;  // from one image to the next, for x, dy and dx
};

// The kernels of one instruction set. Scratch memory and packed weights are counted in
// floats; scratch memory is aligned to 64 bytes and its content is undefined.
struct Kernels {
  int lanes;
  // Packed weights of one block.
  int64_t (*packed_floats)(const Plan&);
  // Scratch memory that is enough for each of the functions below.
  int64_t (*scratch_floats)(const Plan&, bool backward);
  void (*pack)(const Plan&, const Source& weight, float* packed, float* scratch);
  // One tile (of plan.tiles()) of one image.
  void (*forward)(const Plan&, int tile, const Source& x, const float* packed, const Target& y, const Epilogue&,
                  float* scratch);
  void (*backward)(const Plan&, const BackwardTask&, float* scratch);
};

// The lengths of the transforms, ascending.
inline constexpr int kTransformLengths[] = {
    1,  2,  3,  4,  5,  6,  8,  10, 12, 14, 16,  18,  20,  24,  28,  32,  36,
    40, 42, 48, 54, 60, 64, 72, 80, 90, 96, 112, 128, 144, 160, 192, 224, 256,
};

}  // namespace ppreplk
