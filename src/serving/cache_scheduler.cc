#include "serving/cache_scheduler.h"

#include <new>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "serving/deployment.h"

namespace siglip {

CacheScheduler::CacheScheduler(std::unique_ptr<Scheduler> model,
                               std::shared_ptr<ResponseCache> cache, const Clock& clock,
                               StatisticsRecorder& statistics, WorkLanes& lanes)
    : model_(std::move(model)),
      cache_(std::move(cache)),
      clock_(clock),
      statistics_(statistics),
      lanes_(lanes) {}

void CacheScheduler::Enqueue(std::unique_ptr<InferRequest> request) {
  if (request->times.arrival_ns == 0) request->times.arrival_ns = clock_.NowNs();
  const WorkLoad load = LoadOfBytes(InputBytes(*request));
  lanes_.Run(
      load, std::move(request),
      [this](std::unique_ptr<InferRequest> moved) {
        // The model stays until Look returns: the request may be answered before.
        const std::shared_ptr<ModelAccess> models = moved->models;
        Look(std::move(moved));
      },
      [this](std::unique_ptr<InferRequest> moved, const absl::Status& status) {
        moved->times.done_ns = clock_.NowNs();
        statistics_.RecordFailure(FailureReasonOf(status),
                                  ElapsedNs(moved->times.arrival_ns, moved->times.done_ns));
        Refuse(std::move(moved), status);
      });
}

void CacheScheduler::Look(std::unique_ptr<InferRequest> request) {
  const std::int64_t start_ns = clock_.NowNs();
  const Sha256Digest key = CacheKey(*request, request->models->generation());
  std::optional<CachedAnswer> found = cache_->Find(key);
  const std::int64_t found_ns = clock_.NowNs();
  if (found) {
    InferResponse response;
    response.outputs = std::move(found->outputs);
    response.input_tokens = found->input_tokens;
    request->times.queue_start_ns = start_ns;
    request->times.done_ns = found_ns;
    statistics_.RecordCacheHit(ElapsedNs(request->times.arrival_ns, found_ns),
                               ElapsedNs(start_ns, found_ns));
    Answer(*request, std::move(response));
    return;
  }
  request->done = [this, key, lookup_ns = ElapsedNs(start_ns, found_ns),
                   done = std::move(request->done)](InferResponse response) {
    const std::int64_t insert_ns = clock_.NowNs();
    if (response.status.ok()) {
      try {
        cache_->Insert(key, response.outputs, response.input_tokens);
      } catch (const std::bad_alloc&) {  // the answer is there all the same
      }
    }
    statistics_.RecordCacheMiss(lookup_ns + ElapsedNs(insert_ns, clock_.NowNs()));
    done(std::move(response));
  };
  model_->Enqueue(std::move(request));
}

}  // namespace siglip
