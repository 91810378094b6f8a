// Convolution by Fourier transforms: the launches.
#include "spectral.h"

#include "kernels.h"

namespace ppreplk {
namespace cuda {
namespace {

// Where the inputs of tiles lie, for the taps of a window that begin at these. See Axis.
View input_view(const Plan& plan, int first_row, int first_column) {
  const Axis &height = plan.height, &width = plan.width;
  View view{};
  view.start_row = first_row - height.pad, view.start_column = first_column - width.pad;
  view.end_row = view.end_column = plan.length;
  view.first_row = 0;
  view.rows = std::min(plan.length, height.tile + height.window - 1);
  if (plan.whole()) view.first_row = height.pad, view.rows = height.extent;
  view.by_rows = make_divisor(view.rows);
  return view;
}

// Outputs, and windows of taps.
View view_from_zero(int rows, int columns, int start_row = 0, int start_column = 0) {
  return {start_row, start_column, rows, columns, 0, rows, make_divisor(rows)};
}

Units units_of(const Plan& plan) {
  const Problem& p = plan.problem;
  Units units{};
  units.count = p.batch * plan.tiles(), units.channels = p.channels;
  units.plane = int64_t{p.height} * p.width;
  units.tiles = plan.tiles();
  units.by_columns = make_divisor(plan.width.tiles);
  units.tile_rows = plan.height.tile, units.tile_columns = plan.width.tile;
  return units;
}

// The units of a channel are groups of pairs; a block takes some groups.
struct Share {
  int groups, groups_per_block, chunks;
};
Share share_of(const Plan& plan, int pairs, int64_t max_groups_per_block) {
  const int64_t groups = ceil_div(int64_t{plan.problem.batch} * plan.tiles(), 2 * pairs);
  const int64_t many = groups * plan.problem.channels * plan.windows() / kManyBlocks;
  const int64_t each = std::max<int64_t>(1, std::min(many, max_groups_per_block));
  return {static_cast<int>(groups), static_cast<int>(each), static_cast<int>(ceil_div(groups, each))};
}
constexpr int64_t kMaxForwardGroups = 8;  // of a block: enough to read a spectrum from the cache nearby

template <class S>
int make_spectra(const Plan& plan, const void* weight, int dtype, bool flipped, int first_row, int first_column,
                 float* spectra, void* stream) {
  const Problem& p = plan.problem;
  const int rows = std::min(plan.height.window, plan.height.kernel - first_row);
  const int columns = std::min(plan.width.window, plan.width.kernel - first_column);
  SpectraTask task{};
  task.weight = {weight, dtype, p.kernel, p.kernel, flipped ? -1 : 1};
  task.plane = int64_t{p.kernel} * p.kernel;
  task.first = flipped ? task.plane - 1 : 0;
  task.view = view_from_zero(rows, columns, (p.kernel - plan.height.kernel) / 2 + first_row,
                             (p.kernel - plan.width.kernel) / 2 + first_column);
  task.channels = p.channels;
  task.spectra = reinterpret_cast<Complex*>(spectra);
  const auto blocks = static_cast<unsigned>(ceil_div(p.channels, S::kPairs));
  return launch(weight_spectra<S>, dim3(blocks), S::kThreads, Block<S>::kBytes, stream, task);
}

template <class S>
int forward_with(const Plan& plan, const Forward& in) {
  const Problem& p = plan.problem;
  const Share share = share_of(plan, S::kPairs, kMaxForwardGroups);
  ConvolveTask task{};
  task.x = {in.x, in.dtype, p.height, p.width, 1};
  task.units = units_of(plan);
  task.out = view_from_zero(plan.height.tile, plan.width.tile);
  task.spectra = reinterpret_cast<const Complex*>(in.spectra);
  task.groups = share.groups, task.groups_per_block = share.groups_per_block, task.chunks = share.chunks;
  const int windows = plan.windows();
  for (int window = 0; window < windows; ++window) {
    const int first_row = window / plan.width.windows * plan.height.window;
    const int first_column = window % plan.width.windows * plan.width.window;
    int error = make_spectra<S>(plan, in.weight, in.weight_dtype, in.flipped, first_row, first_column, in.spectra,
                                in.stream);
    if (error) return error;
    task.in = input_view(plan, first_row, first_column);
    task.y = in.y;
    if (window + 1 < windows) task.y = {in.sums, PPREPLK_CUDA_FLOAT32, p.height, p.width, nullptr, nullptr, 0};
    task.y.addend = window > 0 ? in.sums : nullptr;
    const auto blocks = static_cast<unsigned>(p.channels * share.chunks);
    error = launch(convolve<S>, dim3(blocks), S::kThreads, Block<S>::kBytes, in.stream, task);
    if (error) return error;
  }
  return PPREPLK_CUDA_OK;
}

template <class S>
int gradient_with(const Plan& plan, const Gradient& in) {
  const Problem& p = plan.problem;
  const Share share = share_of(plan, S::kPairs, INT32_MAX);
  GradientsTask task{};
  if (in.dx) {
    const int error = make_spectra<S>(plan, in.weight, in.weight_dtype, false, 0, 0, in.spectra, in.stream);
    if (error) return error;
  }
  task.x = {in.x, in.dtype, p.height, p.width, 1};
  task.dy = {in.dy, in.dtype, p.height, p.width, 1};
  task.dx = {in.dx, in.dtype, p.height, p.width, nullptr, nullptr, 0};
  task.partial = {in.partial.data, PPREPLK_CUDA_FLOAT32, in.partial.rows, in.partial.columns, nullptr, nullptr, 0};
  task.in = input_view(plan, 0, 0);
  task.out = view_from_zero(plan.height.tile, plan.width.tile);
  task.lags = view_from_zero(plan.height.window, plan.width.window);
  task.units = units_of(plan);
  task.spectra = reinterpret_cast<const Complex*>(in.spectra);
  task.groups = share.groups, task.groups_per_block = share.groups_per_block, task.chunks = share.chunks;
  task.window_rows = plan.height.window, task.window_columns = plan.width.window;
  task.windows_across = plan.width.windows;
  const dim3 grid(static_cast<unsigned>(p.channels * share.chunks), static_cast<unsigned>(plan.windows()));
  return launch(weight_gradient<S>, grid, S::kItems, Block<S>::kBytes, in.stream, task);
}

}  // namespace

int64_t spectra_floats(const Plan& plan) { return int64_t{2} * plan.problem.channels * plan.length * plan.length; }

int spectral_forward(const Plan& plan, const Forward& task) {
  return with_shape(plan.length, [&](auto shape) { return forward_with<decltype(shape)>(plan, task); });
}

Partial spectral_partial(const Plan& plan) {
  Partial partial{nullptr, 0, plan.height.kernel, plan.width.kernel};
  with_shape(plan.length, [&](auto shape) {
    constexpr int kPairs = decltype(shape)::kPairs;
    partial.parts = share_of(plan, kPairs, INT32_MAX).chunks * kPairs;
    return PPREPLK_CUDA_OK;
  });
  return partial;
}

int spectral_gradient(const Plan& plan, const Gradient& task) {
  return with_shape(plan.length, [&](auto shape) { return gradient_with<decltype(shape)>(plan, task); });
}

}  // namespace cuda
}  // namespace ppreplk
