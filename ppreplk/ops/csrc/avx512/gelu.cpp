#include "gelu.h"

#include <cmath>

namespace ppreplk {
namespace {

constexpr int kPoints = 5;

// Interpolates g at Chebyshev's nodes in each piece, in double precision.
GeluTable made() {
  const double pi = std::acos(-1.0), width = double{GeluTable::kEnd} / GeluTable::kPieces;
  double nodes[kPoints];
  for (int i = 0; i < kPoints; ++i) nodes[i] = 0.5 * std::cos(pi * (2 * i + 1) / (2 * kPoints));
  GeluTable table{};
  for (int piece = 0; piece + 1 < GeluTable::kPieces; ++piece) {  // the last one stays zero
    double sums[kPoints] = {};
    for (int i = 0; i < kPoints; ++i) {
      const double x = (piece + 0.5 + nodes[i]) * width;
      // Lagrange's polynomial that is one at this node and zero at the others, as its coefficients.
      double polynomial[kPoints + 1] = {1.0}, scale = 1.0;
      int degree = 0;
      for (int j = 0; j < kPoints; ++j) {
        if (j == i) continue;
        scale *= nodes[i] - nodes[j];
        ++degree;
        for (int power = degree; power > 0; --power) {
          polynomial[power] = polynomial[power - 1] - nodes[j] * polynomial[power];
        }
        polynomial[0] *= -nodes[j];
      }
      const double value = x / 2 * std::erfc(x / std::sqrt(2.0)) / scale;
      for (int power = 0; power < kPoints; ++power) sums[power] += value * polynomial[power];
    }
    for (int power = 0; power < kPoints; ++power) table.coefficients[power][piece] = static_cast<float>(sums[power]);
  }
  return table;
}

}  // namespace

const GeluTable& gelu_table() {
  static const GeluTable table = made();
  return table;
}

}  // namespace ppreplk
