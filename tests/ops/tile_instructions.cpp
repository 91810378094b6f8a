// AMX's instructions on processors without them: each raises a signal, whose handler does what the instruction does.
// It stands in for dispatch.cpp, so that the kernels for AMX run.
#include <signal.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bfloat16.h"
#include "dispatch.h"
#include "tiles.h"
#include "training_products.h"

namespace ppreplk {
namespace amx {

Backend backend() { return Backend::hardware; }
bool choose_backend(Backend) { return false; }
const Kernels& kernels() { return hardware_kernels(); }

namespace {

struct Registers {
  TileConfig config;
  uint8_t data[8][16][64];
};

thread_local Registers registers;
long counts[6];

float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value; }

float element(const uint8_t* from) {
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return flushed(channels_last::widen(bits));
}

// The operation of Intel's manual, element by element.
void multiply(int sums, int rows, int weights) {
  const TileConfig& config = registers.config;
  for (int m = 0; m < config.rows[sums]; ++m) {
    for (int n = 0; n < config.bytes[sums] / 4; ++n) {
      float even = 0, odd = 0, old;
      for (int k = 0; k < config.bytes[rows] / 4; ++k) {
        const uint8_t *a = registers.data[rows][m] + 4 * k, *b = registers.data[weights][k] + 4 * n;
        even = flushed(std::fma(element(a), element(b), even));
        odd = flushed(std::fma(element(a + 2), element(b + 2), odd));
      }
      std::memcpy(&old, registers.data[sums][m] + 4 * n, sizeof old);
      old = flushed(flushed(old) + flushed(even + odd));
      std::memcpy(registers.data[sums][m] + 4 * n, &old, sizeof old);
    }
  }
}

// The operand in memory behind a VEX prefix: base, index times scale, displacement.
struct Operand {
  const uint8_t* end;
  uint64_t base, index = 0;
};

Operand operand(const uint8_t* modrm, const greg_t* general, bool base8, bool index8) {
  static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  const int mode = *modrm >> 6, low = *modrm & 7;
  const uint8_t* next = modrm + 1;
  Operand result{};
  int base = low;
  if (low == 4) {
    const uint8_t sib = *next++;
    base = sib & 7;
    const int index = (sib >> 3 & 7) + 8 * index8;
    if (index != 4) result.index = static_cast<uint64_t>(general[order[index]]) << (sib >> 6);
  }
  if (mode == 0 && base == 5) std::abort();  // not made by these kernels
  result.base = general[order[base + 8 * base8]];
  if (mode == 1) result.base += static_cast<int8_t>(*next++);
  if (mode == 2) {
    int32_t displacement;
    std::memcpy(&displacement, next, sizeof displacement);
    result.base += displacement;
    next += 4;
  }
  result.end = next;
  return result;
}

void handle(int, siginfo_t*, void* context) {
  greg_t* general = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto* code = reinterpret_cast<const uint8_t*>(general[REG_RIP]);
  const bool index8 = !(code[1] & 0x40), base8 = !(code[1] & 0x20);
  const int prefix = code[2] & 3, other = ~(code[2] >> 3) & 15, opcode = code[3], modrm = code[4];
  const int reg = modrm >> 3 & 7, low = modrm & 7;
  const bool in_memory = modrm >> 6 != 3;
  const uint8_t* end = code + 5;
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2) {
    std::fprintf(stderr, "unknown instruction %02x %02x %02x %02x\n", code[0], code[1], code[2], code[3]);
    std::_Exit(70);
  }
  if (opcode == 0x49 && prefix == 0 && in_memory) {  // ldtilecfg
    const Operand from = operand(code + 4, general, base8, index8);
    std::memcpy(&registers.config, reinterpret_cast<const void*>(from.base + from.index), sizeof registers.config);
    std::memset(registers.data, 0, sizeof registers.data);
    const TileConfig& config = registers.config;
    for (int tile = 0; tile < 8; ++tile) {
      if (config.palette != 1 || config.rows[tile] > 16 || config.bytes[tile] > 64) std::abort();
    }
    end = from.end;
    ++counts[0];
  } else if (opcode == 0x49 && prefix == 0) {  // tilerelease
    registers = Registers{};
    ++counts[1];
  } else if (opcode == 0x49 && prefix == 3) {  // tilezero
    std::memset(registers.data[reg], 0, sizeof registers.data[reg]);
    ++counts[2];
  } else if (opcode == 0x4b && in_memory && (prefix == 3 || prefix == 2)) {  // tileloadd, tilestored
    const Operand at = operand(code + 4, general, base8, index8);
    if (prefix == 3) std::memset(registers.data[reg], 0, sizeof registers.data[reg]);
    for (int row = 0; row < registers.config.rows[reg]; ++row) {
      auto* line = reinterpret_cast<uint8_t*>(at.base + row * at.index);
      uint8_t* inside = registers.data[reg][row];
      std::memcpy(prefix == 3 ? inside : line, prefix == 3 ? line : inside, registers.config.bytes[reg]);
    }
    end = at.end;
    ++counts[prefix == 3 ? 3 : 4];
  } else if (opcode == 0x5c && prefix == 2 && !in_memory) {  // tdpbf16ps
    multiply(reg, low, other);
    ++counts[5];
  } else {
    std::fprintf(stderr, "unknown instruction of AMX, opcode %02x\n", opcode);
    std::_Exit(70);
  }
  general[REG_RIP] = reinterpret_cast<greg_t>(end);
}

}  // namespace
}  // namespace amx
}  // namespace ppreplk

using namespace ppreplk::amx;

extern "C" void catch_instructions() {
  struct sigaction action = {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, nullptr);
}

extern "C" long count(int kind) { return counts[kind]; }
extern "C" int64_t bytes(int64_t in, int64_t out, int terms) { return packed_bytes(in, out, static_cast<Terms>(terms)); }
extern "C" void packed(const float* weight, int64_t in, int64_t out, int terms, void* to) {
  pack(weight, in, out, static_cast<Terms>(terms), to);
}
extern "C" void convolve(const void* x, int64_t rows, int64_t in, int64_t out, const void* weights, const float* bias,
                         const void* residual, int activation, void* y, int threads) {
  pointwise(x, rows, in, out, weights, {bias, residual, static_cast<ppreplk::Activation>(activation)}, y, threads);
}
extern "C" void feed(const void* x, int64_t rows, int64_t channels, int64_t hidden, const void* first,
                     const float* bias1, const void* second, const float* bias2, void* y, int threads) {
  feed_forward(x, rows, channels, hidden, first, bias1, second, bias2, y, threads);
}
extern "C" void train(const float* x, int64_t rows, int64_t in, int64_t out, const float* weight, const float* dy,
                      float* y, float* dx, float* dweight, int threads) {
  forward(x, rows, in, out, weight, y, threads);
  input_gradient(dy, rows, in, out, weight, dx, threads);
  weight_gradient(x, dy, rows, in, out, dweight, threads);
}
