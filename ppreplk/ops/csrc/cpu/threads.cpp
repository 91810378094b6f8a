#include "threads.h"

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

namespace ppreplk {
namespace {

OpenMP openmp;

struct Team {
  void (*body)(void* context, int thread, int team);
  void* context;
};

void run_in_openmp(void* context) {
  const Team& team = *static_cast<const Team*>(context);
  team.body(team.context, openmp.thread_num(), openmp.num_threads());
}

void run_in_own_threads(int threads, const Team& team) {
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  int next = 1;
  try {
    for (; next < threads; ++next) others.emplace_back(team.body, team.context, next, threads);
  } catch (const std::exception&) {  // the system has no more, or no memory: this thread does their part
  }
  team.body(team.context, 0, threads);
  for (; next < threads; ++next) team.body(team.context, next, threads);
  for (std::thread& thread : others) thread.join();
}

}  // namespace

void use_openmp(const OpenMP& functions) { openmp = functions; }

int max_threads() {
  if (openmp.parallel) return openmp.max_threads();
  static const unsigned processors = std::thread::hardware_concurrency();  // reads a file at every call
  return std::max(1, static_cast<int>(processors));
}

void run_team(int threads, void (*body)(void* context, int thread, int team), void* context) {
  Team team{body, context};
  if (threads <= 1) {
    body(context, 0, 1);
  } else if (openmp.parallel) {
    openmp.parallel(run_in_openmp, &team, static_cast<unsigned>(threads), 0);
  } else {
    run_in_own_threads(threads, team);
  }
}

}  // namespace ppreplk
