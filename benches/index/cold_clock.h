// Included before the peer's source (see ../index_sdsl.sh): every reading of the clock is followed by
// 128 MB of writes whose time is left out, so that what is timed next begins with cold caches.
#include <ctime>
#include <vector>
static double cold_nanos(int id) {
  timespec t;
  clock_gettime(id, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}
static int cold_clock_gettime(int id, timespec* out) {
  static double skipped = 0;
  static std::vector<unsigned long> memory(128 << 17, 1);
  const double now = cold_nanos(id), told = now - skipped;
  for (unsigned long& word : memory) word *= 3;
  out->tv_sec = (long)(told / 1e9);
  out->tv_nsec = (long)(told - out->tv_sec * 1e9);
  skipped += cold_nanos(id) - now;
  return 0;
}
#define clock_gettime cold_clock_gettime
