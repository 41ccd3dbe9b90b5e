#pragma once

#include <string>

namespace siglip::cli {

// Of what ModelInfo::engine says, all that numbers depend on: the number of threads is left out,
// and of GPUs how many they are and which numbers they have.
//   cpu, avx512, fp32, 2 threads -> cpu, avx512, fp32
//   NVIDIA H200 (cuda:0, sm_90) + NVIDIA H200 (cuda:1, sm_90), bf16, own attention
//     -> NVIDIA H200 (sm_90), bf16, own attention
std::string JobEngine(const std::string& engine);

}  // namespace siglip::cli
