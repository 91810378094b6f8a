// Tasks for the threads of a team.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

#include "threads.h"

namespace ppreplk {

// Calls body(task) for every task. Neighbouring tasks go to the same thread.
template <class Body>
void parallel_for(int threads, int64_t tasks, Body body) {
  struct Work {
    Body& body;
    int64_t tasks;
    std::atomic<bool> out_of_memory;
  } work{body, tasks, {false}};
  const auto run = [](void* context, int thread, int team) {
    Work& work = *static_cast<Work*>(context);
    try {
      const int64_t end = work.tasks * (thread + 1) / team;
      for (int64_t task = work.tasks * thread / team; task < end; ++task) work.body(task);
    } catch (const std::bad_alloc&) {
      work.out_of_memory = true;
    }
  };
  run_team(static_cast<int>(std::clamp<int64_t>(threads, 1, std::max<int64_t>(tasks, 1))), run, &work);
  if (work.out_of_memory) throw std::bad_alloc();
}

}  // namespace ppreplk
