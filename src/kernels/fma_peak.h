#pragma once

// The roof that benches are compared by.

namespace siglip {

// GFLOP/s of fused multiply-adds on registers alone, on `threads` threads at once, best of several
// short runs within `seconds`.
double MeasureFmaPeak(int threads, double seconds);

}  // namespace siglip
