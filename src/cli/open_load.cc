#include "cli/open_load.h"

#include <cmath>
#include <utility>

namespace siglip::cli {

OpenLoadRecorder::OpenLoadRecorder(const OpenLoad& load)
    : rate_(load.rate), start_(NowSeconds()), end_(start_ + load.seconds) {
  result_.answers_in_s.resize(static_cast<std::size_t>(std::ceil(load.seconds)));
}

double OpenLoadRecorder::NextDue() const {
  return start_ + static_cast<double>(result_.offered) / rate_;
}

std::size_t OpenLoadRecorder::Offer(double now) {
  result_.lags.seconds.push_back(now - NextDue());
  return result_.offered++;
}

void OpenLoadRecorder::Answered(double begin) {
  const double now = NowSeconds();
  result_.answers.seconds.push_back(now - begin);
  const auto second = static_cast<std::size_t>(now - start_);
  if (second < result_.answers_in_s.size()) ++result_.answers_in_s[second];
}

void OpenLoadRecorder::Refused(double begin, bool says_when) {
  result_.refusals.seconds.push_back(NowSeconds() - begin);
  if (!says_when) ++result_.without_retry;
}

void OpenLoadRecorder::Failed(const absl::Status& status) {
  if (++result_.failures == 1) result_.first_failure = status;
}

OpenLoadResult OpenLoadRecorder::Finish(std::size_t abandoned) {
  result_.abandoned = abandoned;
  return std::move(result_);
}

}  // namespace siglip::cli
