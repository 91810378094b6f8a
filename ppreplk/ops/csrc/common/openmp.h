// OpenMP's functions. Clang has their header in a package of its own, which a user may not have; code needs no more than
// these of it, and is linked with Paddle's runtime.
#pragma once

#if __has_include(<omp.h>)
#include <omp.h>
#else
extern "C" {
int omp_get_thread_num(void);
int omp_get_num_threads(void);
int omp_get_max_threads(void);
}
#endif
