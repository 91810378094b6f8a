// Tile registers: AMX's instructions. Included inside a namespace.
//
// Written as assembly, because GCC's intrinsics do not say what memory they read: it would leave out or move stores
// before a load of a configuration or a tile.

PPREPLK_INLINE void load_config(const TileConfig& config) {
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

void release_tiles() { asm volatile("tilerelease" : : : "memory"); }

template <int TILE>
PPREPLK_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
}

template <int TILE>
PPREPLK_INLINE void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(TILE) : "memory");
}

template <int TILE>
PPREPLK_INLINE void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(TILE) : "memory");
}

template <int SUMS, int ROWS, int WEIGHTS>
PPREPLK_INLINE void multiply_tile() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(ROWS), "i"(WEIGHTS));
}
