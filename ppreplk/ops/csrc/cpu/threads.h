// Teams of threads for the core.
//
// The core is linked with no OpenMP runtime, since a second one in a process halves the speed of both. It is told the
// functions of the one that is there, and then works with its threads. Without them it starts threads of its own for
// every call.
#pragma once

namespace ppreplk {

struct OpenMP {
  void (*parallel)(void (*body)(void*), void* context, unsigned threads, unsigned flags) = nullptr;  // GOMP_parallel
  int (*thread_num)() = nullptr;                                                              // omp_get_thread_num
  int (*num_threads)() = nullptr;                                                             // omp_get_num_threads
  int (*max_threads)() = nullptr;                                                             // omp_get_max_threads
};

// Not while another thread is in the core.
void use_openmp(const OpenMP& functions);

// The number of threads that the calling thread may use: OpenMP's, or that of the processors.
int max_threads();

// Calls body(context, thread, team) once for every thread of a team. There may be fewer of them than were asked for.
// `body` must not throw.
void run_team(int threads, void (*body)(void* context, int thread, int team), void* context);

}  // namespace ppreplk
