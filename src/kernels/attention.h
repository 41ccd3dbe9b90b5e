#pragma once

// softmax(Q K^T / sqrt(head_dim)) V without a mask.

#include <cstddef>
#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/gemm.h"

namespace siglip {

// Token t of item i is row i * tokens + t of q, k and v, which lie in one buffer or in three; head
// h is columns [h * head_dim, (h + 1) * head_dim). Items of unequal length: row_begins[i] + t.
struct AttentionCall {
  std::int64_t batch = 0;
  std::int64_t tokens = 0;  // of each item; with row_begins, of the longest
  // [batch + 1]: item i has the rows up to row_begins[i + 1]. Null: equal lengths. With it every
  // query is answered, in the row that it came in; query_begin and query_count are not read.
  const std::int64_t* row_begins = nullptr;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  std::int64_t row_stride = 0;
  // Only these queries of each item are answered.
  std::int64_t query_begin = 0;
  std::int64_t query_count = 0;
  // Query j of item i goes to row i * query_count + j.
  float* out = nullptr;
  std::int64_t out_stride = 0;
  // Of Q K^T: each query and each key is a row of a factor. The rest is in fp32, and so is Q K^T if
  // a head is wider than one of int16's blocks of K. kInt8 is as kInt16. On AMX both products are
  // of bfloat16 instead, kInt16's in twos of them, with a smaller error than integers.
  GemmFormat format = GemmFormat::kFp32;
};

// Floats of scratch memory that one worker needs.
std::size_t AttentionScratchFloats(std::int64_t tokens, std::int64_t head_dim);
// scratch: AttentionScratchFloats() for each worker, 64-byte aligned.
void Attention(ThreadTeam& team, const AttentionCall& call, float* scratch);

}  // namespace siglip
