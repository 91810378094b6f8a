// Dispatch of batch normalization in training: instruction set, threads, pieces of the tensors.
#include "norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "instruction_set.h"
#include "loops.h"
#include "target.h"
#include "tasks.h"

namespace ppreplk {
namespace training {
namespace {

// The loops are compiled once for each instruction set, from the same source.

namespace portable {
#include "norm.inl"
}  // namespace portable

#if defined(__x86_64__)

PPREPLK_TARGET_BEGIN(PPREPLK_AVX2)
namespace avx2 {
#include "norm.inl"
}  // namespace avx2
PPREPLK_TARGET_END
PPREPLK_TARGET_BEGIN(PPREPLK_AVX512)
namespace avx512 {
#include "norm.inl"
}  // namespace avx512
PPREPLK_TARGET_END

#endif  // x86-64

const Loops& current_loops() {
  switch (instruction_set()) {
#if defined(__x86_64__)
    case InstructionSet::avx512: return avx512::kLoops;
    case InstructionSet::avx2: return avx2::kLoops;
#endif
    default: return portable::kLoops;
  }
}

// ---------------------------------------------------------------- pieces

constexpr int64_t kBlockRows = 64, kSlabChannels = 512;  // of float32: 128 KB, which stay in a core's cache
constexpr int64_t kMaxGroups = 64;

// A tensor in slabs of channels times groups of blocks. A block is some rows of one image. The division depends on the
// shape alone, so that sums do not depend on the number of threads.
struct Pieces {
  explicit Pieces(const Rows& rows)
      : rows(rows),
        slabs((rows.channels + kSlabChannels - 1) / kSlabChannels),
        per_image((rows.pixels + kBlockRows - 1) / kBlockRows),
        blocks(rows.images * per_image),
        groups(std::min(blocks, kMaxGroups)) {}

  int64_t tasks() const { return slabs * groups; }
  int64_t first_channel(int64_t slab) const { return slab * kSlabChannels; }
  int64_t channels(int64_t slab) const { return std::min(kSlabChannels, rows.channels - first_channel(slab)); }

  // Calls body(image, offset of the first float, part) for the blocks of a task.
  template <class Body>
  void for_blocks(int64_t task, Body body) const {
    const int64_t slab = task / groups, group = task % groups;
    for (int64_t block = group * blocks / groups; block < (group + 1) * blocks / groups; ++block) {
      const int64_t image = block / per_image, index = block % per_image;
      const int64_t first = index * rows.pixels / per_image, end = (index + 1) * rows.pixels / per_image;
      body(image, (image * rows.pixels + first) * rows.channels + first_channel(slab),
           Part{rows.channels, end - first, channels(slab)});
    }
  }

  const Rows rows;
  const int64_t slabs, per_image, blocks, groups;
};

// gamma / sqrt(variance + epsilon) of each branch, and the sum of the betas.
template <int kBranches>
struct Scales {
  Scales(const Rows& rows, const Branch* branches) : shift(rows.channels) {
    for (int i = 0; i < kBranches; ++i) {
      scale[i].resize(rows.channels);
      for (int64_t c = 0; c < rows.channels; ++c) {
        scale[i][c] = branches[i].gamma[c] * branches[i].inv_std[c];
        shift[c] += branches[i].beta[c];
      }
    }
  }

  Affine<kBranches> at(const Branch* branches, int64_t offset, int64_t channel) const {
    Affine<kBranches> in{};
    for (int i = 0; i < kBranches; ++i) {
      in.x[i] = branches[i].x + offset;
      in.mean[i] = branches[i].mean + channel;
      in.scale[i] = scale[i].data() + channel;
    }
    in.shift = shift.data() + channel;
    return in;
  }

  std::vector<float> scale[kBranches], shift;
};

template <int kBranches>
const BranchLoops<kBranches>& branch_loops(const Loops& loops) {
  if constexpr (kBranches == 1) {
    return loops.one;
  } else {
    return loops.two;
  }
}

// ---------------------------------------------------------------- forward

void compute_statistics(const Loops& loops, const Pieces& pieces, const Branch& branch, const Running& running,
                        float epsilon, float momentum, int threads) {
  const int64_t channels = pieces.rows.channels;
  std::vector<double> means(pieces.groups * channels), squares(pieces.groups * channels);
  std::vector<int64_t> counts(pieces.groups);
  parallel_for(threads, pieces.tasks(), [&](int64_t task) {
    const int64_t slab = task / pieces.groups, group = task % pieces.groups;
    const int64_t at = group * channels + pieces.first_channel(slab);
    int64_t before = 0;
    pieces.for_blocks(task, [&](int64_t, int64_t offset, const Part& part) {
      float mean[kSlabChannels], square[kSlabChannels];
      loops.block_statistics(branch.x + offset, part, mean, square);
      loops.add_statistics(mean, square, part.rows, before, part.channels, &means[at], &squares[at]);
      before += part.rows;
    });
    if (slab == 0) counts[group] = before;
  });
  const double rows = static_cast<double>(pieces.rows.images * pieces.rows.pixels);
  for (int64_t c = 0; c < channels; ++c) {
    double mean = 0, square = 0, before = 0;
    for (int64_t group = 0; group < pieces.groups; ++group) {
      const double count = static_cast<double>(counts[group]), all = before + count;
      const double distance = means[group * channels + c] - mean;
      mean += distance * count / all;
      square += squares[group * channels + c] + distance * distance * before * count / all;
      before = all;
    }
    const double variance = square / rows;
    branch.mean[c] = static_cast<float>(mean);
    branch.inv_std[c] = static_cast<float>(1.0 / std::sqrt(variance + epsilon));
    const float rest = 1.0f - momentum;
    running.mean[c] = running.mean[c] * momentum + static_cast<float>(mean) * rest;
    running.variance[c] = running.variance[c] * momentum + static_cast<float>(variance) * rest;
  }
}

template <int kBranches>
void normalize_branches(const Loops& loops, const Pieces& pieces, const Branch* branches, const Following& following,
                        float* y, int threads) {
  const Scales<kBranches> scales(pieces.rows, branches);
  parallel_for(threads, pieces.tasks(), [&](int64_t task) {
    const int64_t channel = pieces.first_channel(task / pieces.groups);
    pieces.for_blocks(task, [&](int64_t image, int64_t offset, const Part& part) {
      const Affine<kBranches> in = scales.at(branches, offset, channel);
      if constexpr (kBranches == 1) {
        if (following.residual) {
          return loops.apply_residual(in, part, following.residual + offset, following.keep[image], y + offset);
        }
      }
      branch_loops<kBranches>(loops).apply(following.activation, in, part, y + offset);
    });
  });
}

// ---------------------------------------------------------------- backward

template <int kBranches>
void branch_gradients(const Loops& loops, const Pieces& pieces, const Branch* branches, const Following& following,
                      const float* dy, const Gradients* gradients, int threads) {
  const Scales<kBranches> scales(pieces.rows, branches);
  const int64_t channels = pieces.rows.channels, numbers = pieces.groups * channels;
  const auto keep_of = [&](int64_t image) { return following.keep ? following.keep[image] : 1.0f; };
  std::vector<double> sums((1 + kBranches) * numbers);
  parallel_for(threads, pieces.tasks(), [&](int64_t task) {
    const int64_t slab = task / pieces.groups, group = task % pieces.groups;
    const int64_t channel = pieces.first_channel(slab), at = group * channels + channel;
    pieces.for_blocks(task, [&](int64_t image, int64_t offset, const Part& part) {
      float block[1 + kBranches][kSlabChannels] = {};
      float* products[kBranches];
      for (int i = 0; i < kBranches; ++i) products[i] = block[1 + i];
      branch_loops<kBranches>(loops).sums(following.activation, scales.at(branches, offset, channel), part, dy + offset,
                                          keep_of(image), block[0], products, gradients[0].x + offset);
      for (int i = 0; i <= kBranches; ++i) {
        for (int64_t c = 0; c < part.channels; ++c) sums[i * numbers + at + c] += block[i][c];
      }
    });
  });

  std::vector<float> average(channels), slopes[kBranches];
  for (auto& slope : slopes) slope.resize(channels);
  const double rows = static_cast<double>(pieces.rows.images * pieces.rows.pixels);
  for (int64_t c = 0; c < channels; ++c) {
    double all[1 + kBranches] = {};
    for (int i = 0; i <= kBranches; ++i) {
      for (int64_t group = 0; group < pieces.groups; ++group) all[i] += sums[i * numbers + group * channels + c];
    }
    average[c] = static_cast<float>(all[0] / rows);
    for (int i = 0; i < kBranches; ++i) {
      const double inv_std = branches[i].inv_std[c];
      slopes[i][c] = static_cast<float>(all[1 + i] * inv_std * inv_std / rows);
      if (gradients[i].gamma) gradients[i].gamma[c] = static_cast<float>(all[1 + i] * inv_std);
      if (gradients[i].beta) gradients[i].beta[c] = static_cast<float>(all[0]);
    }
  }

  parallel_for(threads, pieces.tasks(), [&](int64_t task) {
    const int64_t channel = pieces.first_channel(task / pieces.groups);
    const float* slope[kBranches];
    for (int i = 0; i < kBranches; ++i) slope[i] = slopes[i].data() + channel;
    pieces.for_blocks(task, [&](int64_t image, int64_t offset, const Part& part) {
      float* dx[kBranches];
      for (int i = 0; i < kBranches; ++i) dx[i] = gradients[i].x + offset;
      branch_loops<kBranches>(loops).spread(following.activation, scales.at(branches, offset, channel), part,
                                            dy + offset, keep_of(image), average.data() + channel, slope, dx);
    });
  });
}

}  // namespace

// ---------------------------------------------------------------- public functions

void normalize(const Rows& rows, const Branch* branches, const Running* running, int count, const Following& following,
               float epsilon, float momentum, float* y, int threads) {
  if (rows.images * rows.pixels * rows.channels == 0) return;
  const Loops& loops = current_loops();
  const Pieces pieces(rows);
  for (int i = 0; i < count; ++i) {
    compute_statistics(loops, pieces, branches[i], running[i], epsilon, momentum, threads);
  }
  const auto run = count == 1 ? normalize_branches<1> : normalize_branches<2>;
  run(loops, pieces, branches, following, y, threads);
}

void normalize_gradients(const Rows& rows, const Branch* branches, int count, const Following& following,
                         const float* dy, const Gradients* gradients, int threads) {
  if (rows.images * rows.pixels * rows.channels == 0) {
    for (int i = 0; i < count; ++i) {
      if (gradients[i].gamma) std::fill_n(gradients[i].gamma, rows.channels, 0.0f);
      if (gradients[i].beta) std::fill_n(gradients[i].beta, rows.channels, 0.0f);
    }
    return;
  }
  const auto run = count == 1 ? branch_gradients<1> : branch_gradients<2>;
  run(current_loops(), Pieces(rows), branches, following, dy, gradients, threads);
}

}  // namespace training
}  // namespace ppreplk
