// GELU with the error function as relu(x) - g(|x|): g is smooth, and in 32 pieces a polynomial of degree 4.
// The error is below 3e-7.
#pragma once

namespace ppreplk {

struct GeluTable {
  static constexpr int kPieces = 32;
  static constexpr float kEnd = 5.6f;  // g vanishes from here on
  static constexpr float kScale = kPieces / kEnd;
  alignas(64) float coefficients[5][kPieces];  // by powers of the distance from the middle of a piece, in pieces
};

const GeluTable& gelu_table();

}  // namespace ppreplk
