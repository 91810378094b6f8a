// The kernels of one instruction set. Included inside a namespace once for each of them,
// after its SIMD primitives.

#include "simd.inl"
#include "layout.inl"
#include "fft.inl"
#include "spectral.inl"
#include "toeplitz.inl"
#include "direct.inl"

inline int64_t packed_floats(const Plan& plan) {
  switch (plan.algorithm) {
    case Algorithm::spectral: return spectral::packed_floats(plan);
    case Algorithm::toeplitz: return toeplitz::packed_floats(plan);
    case Algorithm::direct: return direct::packed_floats(plan);
  }
  return 0;
}

inline int64_t scratch_floats(const Plan& plan, bool backward) {
  switch (plan.algorithm) {
    case Algorithm::spectral: return spectral::scratch_floats(plan, backward);
    case Algorithm::toeplitz: return toeplitz::scratch_floats(plan, backward);
    case Algorithm::direct: return direct::scratch_floats(plan, backward);
  }
  return 0;
}

inline void pack(const Plan& plan, const Source& weight, float* packed, float* scratch) {
  switch (plan.algorithm) {
    case Algorithm::spectral: return spectral::pack(plan, weight, packed, Arena(scratch));
    case Algorithm::toeplitz: return toeplitz::pack(plan, weight, false, packed, Arena(scratch));
    case Algorithm::direct: return direct::pack(plan, weight, packed);
  }
}

inline void forward(const Plan& plan, int tile, const Source& x, const float* packed, const Target& y,
                    const Epilogue& epilogue, float* scratch) {
  switch (plan.algorithm) {
    case Algorithm::spectral: return spectral::forward(plan, tile, x, packed, y, epilogue, Arena(scratch));
    case Algorithm::toeplitz: return toeplitz::forward(plan, x, packed, y, epilogue, Arena(scratch));
    case Algorithm::direct: return direct::forward(plan, x, packed, y, epilogue, Arena(scratch));
  }
}

inline void backward(const Plan& plan, const BackwardTask& task, float* scratch) {
  switch (plan.algorithm) {
    case Algorithm::spectral: return spectral::backward(plan, task, Arena(scratch));
    case Algorithm::toeplitz: return toeplitz::backward(plan, task, Arena(scratch));
    case Algorithm::direct: return direct::backward(plan, task, Arena(scratch));
  }
}

inline const Kernels kKernels{kLanes, packed_floats, scratch_floats, pack, forward, backward};
