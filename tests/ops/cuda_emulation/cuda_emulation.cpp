// The threads of a block as fibers.
#include "depthwise.h"

#include "cuda_emulation.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emulation {

Index thread, block, block_size;

namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kStackBytes = 256 << 10;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kGuardBytes = 0;  // the sanitizer guards it
#else
constexpr size_t kGuardBytes = 64;
#endif
constexpr unsigned char kGuard = 0xa5;

int order = 0, shared_limit = 227 << 10;
int64_t intervals = 0;
char message[200] = "no error";
unsigned char* shared = nullptr;

enum class State { waiting, finished };
struct Fiber {
  void* stack;  // pointer of the stack, while it does not run
  State state;
  int line;  // of the barrier it waits at
};
std::vector<Fiber> fibers;
unsigned char* stacks = nullptr;
Fiber* current = nullptr;
void* scheduler = nullptr;
void (*body)(const void*) = nullptr;
const void* task = nullptr;

#ifdef __x86_64__
extern "C" void ppreplk_switch_stack(void** from, void* to);
asm(R"(
  .text
  .p2align 4
  .globl ppreplk_switch_stack
  .hidden ppreplk_switch_stack
  .type ppreplk_switch_stack, @function
ppreplk_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size ppreplk_switch_stack, .-ppreplk_switch_stack
)");
void switch_stack(void** from, void* to) { ppreplk_switch_stack(from, to); }

[[noreturn]] void fiber_main() {
  body(task);
  current->state = State::finished;
  switch_stack(&current->stack, scheduler);
  std::abort();
}

void* new_stack(int index) {
  constexpr int kSavedRegisters = 6;
  auto* top = reinterpret_cast<void**>(stacks + (index + 1) * kStackBytes) - 1;  // aligned as after a call
  *top = nullptr;
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  return top;
}
#else
ucontext_t contexts[kMaxThreads + 1];
void fiber_main() {
  body(task);
  current->state = State::finished;
  swapcontext(static_cast<ucontext_t*>(current->stack), static_cast<ucontext_t*>(scheduler));
}
void switch_stack(void** from, void* to) {
  if (!*from) *from = &contexts[kMaxThreads];
  swapcontext(static_cast<ucontext_t*>(*from), static_cast<ucontext_t*>(to));
}
void* new_stack(int index) {
  ucontext_t* context = &contexts[index];
  getcontext(context);
  context->uc_stack.ss_sp = stacks + index * kStackBytes;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, fiber_main, 0);
  return context;
}
#endif

template <class... Values>
int fail(const char* format, Values... values) {
  std::snprintf(message, sizeof message, format, values...);
  return 1;
}

// The thread that runs as the i-th of an interval.
int ordered(int i, int threads) {
  if (order == 0) return i;
  if (order == 1) return threads - 1 - i;
  int64_t step = 2 * order + 1;  // any that has no factor in common with the number of threads
  while (std::gcd<int64_t>(step, threads) != 1) step += 2;
  return static_cast<int>((i * step + intervals) % threads);
}

int run_block(int threads, size_t shared_bytes) {
  for (int i = 0; i < threads; ++i) fibers[i] = {new_stack(i), State::waiting, 0};
  for (;; ++intervals) {
    for (int i = 0; i < threads; ++i) {
      const int index = ordered(i, threads);
      current = &fibers[index];
      thread = {index, 0, 0};
      switch_stack(&scheduler, current->stack);
    }
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (shared[shared_bytes + i] != kGuard) return fail("a block wrote behind its %zu bytes", shared_bytes);
    }
    int finished = 0;
    for (int i = 0; i < threads; ++i) {
      finished += fibers[i].state == State::finished;
      if (fibers[i].state != fibers[0].state || fibers[i].line != fibers[0].line) {
        return fail("threads 0 and %d are not at the same barrier (lines %d and %d)", i, fibers[0].line,
                    fibers[i].line);
      }
    }
    if (finished) return 0;
  }
}

}  // namespace

unsigned char* shared_memory() { return shared; }
int max_shared_bytes() { return shared_limit; }
const char* error_text() { return message; }

void barrier(int line) {
  current->line = line;
  switch_stack(&current->stack, scheduler);
}

int run(dim3 grid, int threads, size_t shared_bytes, void (*kernel)(const void*), const void* argument) {
  if (threads < 1 || threads > kMaxThreads) return fail("%d threads in a block", threads);
  if (grid.x < 1 || grid.x > 0x7fffffff || grid.y < 1 || grid.y > 65535 || grid.z != 1) {
    return fail("a grid of %u, %u, %u", grid.x, grid.y, grid.z);
  }
  if (shared_bytes > static_cast<size_t>(shared_limit)) return fail("%zu bytes of shared memory", shared_bytes);
  if (!stacks) {
    void* memory = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return fail("no memory for stacks");
    stacks = static_cast<unsigned char*>(memory);
    fibers.resize(kMaxThreads);
  }
  body = kernel, task = argument;
  block_size = {threads, 1, 1};
  int error = 0;
  for (unsigned y = 0; y < grid.y && !error; ++y) {
    for (unsigned x = 0; x < grid.x && !error; ++x) {
      shared = static_cast<unsigned char*>(std::malloc(shared_bytes + kGuardBytes));
      std::memset(shared, 0xff, shared_bytes);
      std::memset(shared + shared_bytes, kGuard, kGuardBytes);
      block = {static_cast<int>(x), static_cast<int>(y), 0};
      error = run_block(threads, shared_bytes);
      std::free(shared);
    }
  }
  return error;
}

}  // namespace emulation

extern "C" {

// 0: threads run in the order of their numbers; 1: backwards; others: mixed, differently in every interval.
PPREPLK_CUDA_API void ppreplk_emulated_order(int order) { emulation::order = order; }
PPREPLK_CUDA_API void ppreplk_emulated_shared_bytes(int bytes) { emulation::shared_limit = bytes; }
}
