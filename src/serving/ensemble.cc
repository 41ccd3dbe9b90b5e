#include "serving/ensemble.h"

#include <algorithm>
#include <map>
#include <new>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/absl_view.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "serving/config_check.h"
#include "serving/refusals.h"
#include "serving/validate.h"

namespace siglip {
namespace {

using FindModel =
    std::function<absl::StatusOr<std::shared_ptr<const ModelConfig>>(const EnsembleStep&)>;

// As in Triton: what failed in a step counts as its backend's there, and as another's here.
FailureReason EnsembleFailureReason(const absl::Status& status) {
  const FailureReason reason = FailureReasonOf(status);
  return reason == FailureReason::kBackend ? FailureReason::kOther : reason;
}

const TensorConfig* FindTensor(const std::vector<TensorConfig>& tensors, const std::string& name) {
  for (const TensorConfig& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

absl::Status GraphError(const ModelConfig& ensemble, const std::string& text) {
  return ConfigError(ensemble, "ensemble_scheduling", text);
}

std::string EndText(const char* kind, const std::string& name, const EnsembleStep& step) {
  return absl::StrCat(kind, " '", name, "' of step '", step.model_name, "'");
}

// What the names tell of an ensemble's tensor.
struct GraphTensor {
  std::string seen_at;  // for errors
  bool made = false;
  bool taken = false;
  std::vector<std::string> needs;  // the tensors that its maker takes
};

class NameCheck {
 public:
  explicit NameCheck(const ModelConfig& ensemble) : ensemble_(ensemble) {}

  absl::Status Run() {
    for (const TensorConfig& input : ensemble_.inputs) {
      See(input.name, "the ensemble's input").made = true;
    }
    for (const EnsembleStep& step : ensemble_.ensemble_steps) SIGLIP_RETURN_IF_ERROR(AddStep(step));
    for (const TensorConfig& output : ensemble_.outputs) {
      See(output.name, "the ensemble's output").taken = true;
    }
    for (const auto& [name, tensor] : tensors_) {
      if (!tensor.made) return WithoutEnd("input that makes", name, tensor);
    }
    SIGLIP_RETURN_IF_ERROR(CheckOrder());
    for (const auto& [name, tensor] : tensors_) {
      if (!tensor.taken) return WithoutEnd("output that takes", name, tensor);
    }
    return absl::OkStatus();
  }

 private:
  GraphTensor& See(const std::string& name, const std::string& where) {
    const auto [it, is_new] = tensors_.try_emplace(name);
    if (is_new) it->second.seen_at = where;
    return it->second;
  }

  absl::Status WithoutEnd(const std::string& end, const std::string& name,
                          const GraphTensor& tensor) const {
    return GraphError(ensemble_, absl::StrCat("expected a step or ", end, " tensor '", name, "' (",
                                              tensor.seen_at, "), got none"));
  }

  absl::Status AddStep(const EnsembleStep& step) {
    if (step.model_name.empty()) {
      return GraphError(ensemble_, "expected a model_name for each step, got none");
    }
    if (step.input_map.empty() || step.output_map.empty()) {
      return GraphError(ensemble_, absl::StrCat("step '", step.model_name,
                                                "': expected an input_map and an output_map"));
    }
    std::vector<std::string> needs;
    for (const auto& [input, name] : step.input_map) {
      See(name, EndText("input", input, step)).taken = true;
      needs.push_back(name);
    }
    for (const auto& [output, name] : step.output_map) {
      GraphTensor& tensor = See(name, EndText("output", output, step));
      if (std::exchange(tensor.made, true)) {
        return GraphError(ensemble_,
                          absl::StrCat("expected tensor '", name, "' to be made once; step '",
                                       step.model_name, "' makes it again"));
      }
      tensor.needs = needs;
    }
    return absl::OkStatus();
  }

  // Tensors whose makers' inputs are all there are there; what never gets there is in a cycle.
  absl::Status CheckOrder() const {
    std::set<std::string> there;
    bool grew = true;
    while (grew) {
      grew = false;
      for (const auto& [name, tensor] : tensors_) {
        const bool ready =
            !there.contains(name) &&
            std::all_of(tensor.needs.begin(), tensor.needs.end(),
                        [&there](const std::string& need) { return there.contains(need); });
        if (ready) grew = there.insert(name).second;
      }
    }
    for (const auto& [name, tensor] : tensors_) {
      if (!there.contains(name)) {
        return GraphError(ensemble_,
                          absl::StrCat("expected no cycle, but tensor '", name, "' needs itself"));
      }
    }
    return absl::OkStatus();
  }

  const ModelConfig& ensemble_;
  std::map<std::string, GraphTensor> tensors_;
};

// What is known of the values of an ensemble's tensor.
struct TensorType {
  DataType datatype = DataType::kFp32;
  std::vector<std::int64_t> dims;
  std::string seen_at;  // for errors
};

class TypeCheck {
 public:
  TypeCheck(const FindModel& find, ModelConfig& ensemble) : find_(find), ensemble_(ensemble) {}

  absl::Status Run() {
    for (const TensorConfig& input : ensemble_.inputs) {
      SIGLIP_RETURN_IF_ERROR(See(input.name, input, "the ensemble's input"));
    }
    for (const EnsembleStep& step : ensemble_.ensemble_steps) SIGLIP_RETURN_IF_ERROR(AddStep(step));
    for (const TensorConfig& output : ensemble_.outputs) {
      if (output.datatype == DataType::kBytes) {
        return Error(absl::StrCat("output '", output.name, "': BYTES outputs are not supported"));
      }
      SIGLIP_RETURN_IF_ERROR(See(output.name, output, "the ensemble's output"));
    }
    for (TensorConfig& input : ensemble_.inputs) input.dims = tensors_[input.name].dims;
    for (TensorConfig& output : ensemble_.outputs) output.dims = tensors_[output.name].dims;
    return absl::OkStatus();
  }

 private:
  absl::Status Error(const std::string& text) const { return GraphError(ensemble_, text); }

  // Another end of an ensemble tensor: its type and dims must agree with what is known.
  absl::Status See(const std::string& name, const TensorConfig& end, const std::string& where) {
    const auto [it, is_new] = tensors_.try_emplace(name);
    TensorType& tensor = it->second;
    if (is_new) {
      tensor = {.datatype = end.datatype, .dims = end.dims, .seen_at = where};
      return absl::OkStatus();
    }
    if (tensor.datatype != end.datatype) {
      return Error(absl::StrCat("tensor '", name, "': ", tensor.seen_at, " has data-type ",
                                AbslView(DataTypeName(tensor.datatype)), ", ", where, " has ",
                                AbslView(DataTypeName(end.datatype))));
    }
    if (!DimsFit(tensor.dims, end.dims)) {
      return Error(absl::StrCat("tensor '", name, "': ", tensor.seen_at, " has dims ",
                                ShapeText(tensor.dims), ", ", where, " has ", ShapeText(end.dims)));
    }
    for (std::size_t i = 0; i < end.dims.size(); ++i) {
      if (tensor.dims[i] == -1) tensor.dims[i] = end.dims[i];
    }
    return absl::OkStatus();
  }

  absl::Status CheckStepBatch(const EnsembleStep& step, const ModelConfig& model) const {
    if (ensemble_.max_batch_size <= model.max_batch_size &&
        (ensemble_.max_batch_size > 0) == (model.max_batch_size > 0)) {
      return absl::OkStatus();
    }
    return ConfigError(ensemble_, "max_batch_size",
                       absl::StrCat("expected at most that of step '", step.model_name, "', ",
                                    model.max_batch_size, ", and 0 only if that is 0; got ",
                                    ensemble_.max_batch_size));
  }

  // `kind`: "input" or "output".
  absl::Status SeeAll(const std::map<std::string, std::string>& names, const char* kind,
                      const std::vector<TensorConfig>& configs, const EnsembleStep& step) {
    for (const auto& [name, tensor] : names) {
      const TensorConfig* config = FindTensor(configs, name);
      if (config == nullptr) {
        return Error(absl::StrCat("step '", step.model_name, "': ", kind, "_map names unknown ",
                                  kind, " '", name, "'"));
      }
      SIGLIP_RETURN_IF_ERROR(See(tensor, *config, EndText(kind, name, step)));
    }
    return absl::OkStatus();
  }

  absl::Status AddStep(const EnsembleStep& step) {
    absl::StatusOr<std::shared_ptr<const ModelConfig>> model = find_(step);
    if (!model.ok()) {
      return Error(absl::StrCat("step '", step.model_name, "': ", model.status().message()));
    }
    SIGLIP_RETURN_IF_ERROR(CheckStepBatch(step, **model));
    SIGLIP_RETURN_IF_ERROR(SeeAll(step.input_map, "input", (*model)->inputs, step));
    for (const TensorConfig& input : (*model)->inputs) {
      if (step.input_map.contains(input.name)) continue;
      return Error(absl::StrCat("step '", step.model_name, "': expected input '", input.name,
                                "' in input_map, got none"));
    }
    return SeeAll(step.output_map, "output", (*model)->outputs, step);
  }

  const FindModel& find_;
  ModelConfig& ensemble_;
  std::map<std::string, TensorType> tensors_;
};

}  // namespace

absl::Status CheckGraph(const ModelConfig& ensemble) { return NameCheck(ensemble).Run(); }

absl::Status CheckEnsemble(const FindModel& find, ModelConfig& ensemble) {
  return TypeCheck(find, ensemble).Run();
}

// One request's walk over the graph. Shared by the answers of the steps that are under way.
class EnsembleScheduler::Run : public std::enable_shared_from_this<Run> {
 public:
  Run(EnsembleScheduler& owner, std::unique_ptr<InferRequest> request, Place place)
      : owner_(owner),
        config_(owner.config_),
        request_(std::move(request)),
        place_(std::move(place)),
        sent_(config_->ensemble_steps.size(), false) {}

  void Begin() {
    request_->times.compute_start_ns = owner_.clock_.NowNs();
    {
      MutexLock lock(mu_);
      Try([this]() SIGLIP_NO_THREAD_SAFETY_ANALYSIS { KeepInputs(); });
    }
    Proceed();
  }

 private:
  // Memory that runs out on the way ends the request, with an answer; who called goes on.
  template <class Work>
  void Try(const Work& work) SIGLIP_REQUIRES(mu_) {
    try {
      work();
    } catch (const std::bad_alloc&) {
      if (status_.ok()) status_ = owner_.no_memory_;
    }
  }

  void KeepInputs() SIGLIP_REQUIRES(mu_) {
    for (const InputTensor& input : request_->inputs) {
      InputTensor tensor = input;
      if (tensor.storage == nullptr) tensor.storage = request_->body;
      tensors_.emplace(input.name, std::move(tensor));
    }
  }

  void Proceed() {
    try {
      Advance();
    } catch (const std::bad_alloc&) {
      MutexLock lock(mu_);
      if (status_.ok()) status_ = owner_.no_memory_;
    }
    {
      MutexLock lock(mu_);
      const bool all_sent = std::find(sent_.begin(), sent_.end(), false) == sent_.end();
      if (finished_ || under_way_ > 0 || (status_.ok() && !all_sent)) return;
      finished_ = true;
    }
    Finish();
  }

  // Sends every step whose inputs are there.
  void Advance() {
    std::vector<std::unique_ptr<InferRequest>> ready;
    // Before the lock: a request that is dropped answers, and that takes the lock.
    ready.reserve(config_->ensemble_steps.size());
    {
      MutexLock lock(mu_);
      for (std::size_t i = 0; status_.ok() && i < sent_.size(); ++i) {
        if (sent_[i] || !InputsAreThere(config_->ensemble_steps[i])) continue;
        ready.push_back(MakeStepRequest(config_->ensemble_steps[i]));
        sent_[i] = true;
        ++under_way_;
      }
    }
    for (std::unique_ptr<InferRequest>& request : ready) {
      request_->models->InferWithin(std::move(request));
    }
  }

  bool InputsAreThere(const EnsembleStep& step) const SIGLIP_REQUIRES(mu_) {
    return std::all_of(step.input_map.begin(), step.input_map.end(),
                       [this](const auto& entry) SIGLIP_NO_THREAD_SAFETY_ANALYSIS {
                         return tensors_.contains(entry.second);
                       });
  }

  std::unique_ptr<InferRequest> MakeStepRequest(const EnsembleStep& step) SIGLIP_REQUIRES(mu_) {
    auto request = std::make_unique<InferRequest>();
    request->id = request_->id;
    request->model_name = step.model_name;
    request->model_version = step.version();
    request->parameters = request_->parameters;
    Inherit(*request_, *request);
    for (const auto& [input, tensor] : step.input_map) {
      request->inputs.push_back(tensors_.at(tensor));
      request->inputs.back().name = input;
    }
    for (const auto& [output, tensor] : step.output_map)
      request->outputs.push_back({.name = output});
    request->done = [self = shared_from_this(), &step](InferResponse response) {
      self->StepDone(step, std::move(response));
    };
    return request;
  }

  void StepDone(const EnsembleStep& step, InferResponse response) {
    {
      MutexLock lock(mu_);
      --under_way_;
      Try([&]() SIGLIP_NO_THREAD_SAFETY_ANALYSIS { Keep(step, std::move(response)); });
    }
    Proceed();
  }

  void Keep(const EnsembleStep& step, InferResponse response) SIGLIP_REQUIRES(mu_) {
    if (!response.status.ok()) {
      if (status_.ok()) {
        status_ =
            PrefixStatus(response.status, absl::StrCat("in ensemble '", config_->name, "', "));
      }
      return;
    }
    sum_.input_ns += response.durations.input_ns;
    sum_.infer_ns += response.durations.infer_ns;
    sum_.output_ns += response.durations.output_ns;
    for (OutputTensor& output : response.outputs) {
      InputTensor tensor;
      tensor.name = output.name;
      tensor.datatype = output.datatype;
      tensor.shape = std::move(output.shape);
      tensor.data = output.data;
      tensor.storage = std::move(output.storage);
      tensors_.emplace(step.output_map.at(output.name), std::move(tensor));
    }
  }

  OutputTensor TakeOutput(const std::string& name) SIGLIP_REQUIRES(mu_) {
    const InputTensor& tensor = tensors_.at(name);
    OutputTensor output;
    output.name = name;
    output.datatype = tensor.datatype;
    output.shape = tensor.shape;
    output.data = tensor.data;
    output.storage = tensor.storage;
    return output;
  }

  void TakeOutputs(std::vector<OutputTensor>& outputs) SIGLIP_REQUIRES(mu_) {
    if (!request_->outputs.empty()) {
      for (const RequestedOutput& o : request_->outputs) outputs.push_back(TakeOutput(o.name));
      return;
    }
    for (const TensorConfig& o : config_->outputs) outputs.push_back(TakeOutput(o.name));
  }

  void Finish() {
    InferResponse response;
    {
      MutexLock lock(mu_);
      if (status_.ok()) {
        Try([&]() SIGLIP_NO_THREAD_SAFETY_ANALYSIS { TakeOutputs(response.outputs); });
      }
      response.status = status_;
      response.durations = sum_;
      tensors_.clear();
    }
    RequestTimes& times = request_->times;
    times.done_ns = owner_.clock_.NowNs();
    response.durations.queue_ns = ElapsedNs(times.queue_start_ns, times.compute_start_ns);
    const std::uint64_t total_ns = ElapsedNs(times.arrival_ns, times.done_ns);
    if (response.status.ok()) {
      const std::int64_t rows = BatchSize(*config_, *request_);
      owner_.statistics_.RecordSuccess(rows, total_ns, response.durations);
      owner_.statistics_.RecordExecution(rows, response.durations);
    } else {
      owner_.statistics_.RecordFailure(EnsembleFailureReason(response.status), total_ns);
    }
    Answer(*request_, std::move(response));
    place_.Leave();
  }

  EnsembleScheduler& owner_;
  const std::shared_ptr<const ModelConfig> config_;
  // Only read between Begin and Finish.
  const std::unique_ptr<InferRequest> request_;
  Place place_;
  Mutex mu_;
  std::vector<bool> sent_ SIGLIP_GUARDED_BY(mu_);  // by step
  int under_way_ SIGLIP_GUARDED_BY(mu_) = 0;
  bool finished_ SIGLIP_GUARDED_BY(mu_) = false;
  absl::Status status_ SIGLIP_GUARDED_BY(mu_);  // the first failure
  std::map<std::string, InputTensor> tensors_ SIGLIP_GUARDED_BY(mu_);
  ComputeDurations sum_ SIGLIP_GUARDED_BY(mu_);
};

EnsembleScheduler::EnsembleScheduler(std::shared_ptr<const ModelConfig> config, const Clock& clock,
                                     StatisticsRecorder& statistics)
    : config_(std::move(config)),
      clock_(clock),
      statistics_(statistics),
      no_memory_(absl::ResourceExhaustedError(
          absl::StrCat("in ensemble '", config_->name, "', out of memory"))) {
  if (config_->ensemble_max_inflight_requests != 0) {
    refuser_ = std::thread([this] { Repeat([this] { return RefuseGone(); }); });
  }
}

EnsembleScheduler::~EnsembleScheduler() {
  Stop();
  if (refuser_.joinable()) refuser_.join();
}

void EnsembleScheduler::Enqueue(std::unique_ptr<InferRequest> request) {
  request->times.queue_start_ns = clock_.NowNs();
  if (request->times.arrival_ns == 0) request->times.arrival_ns = request->times.queue_start_ns;
  {
    MutexLock lock(mu_);
    const std::uint32_t limit = config_->ensemble_max_inflight_requests;
    if (!stopping_ && limit != 0 && running_ >= limit) {
      waiting_.push_back(std::move(request));
      statistics_.AddPending(1);
      changed_.NotifyOne();
      return;
    }
    ++running_;
  }
  Start(std::move(request));
}

void EnsembleScheduler::Start(std::unique_ptr<InferRequest> request) {
  Place place(*this, request->models);
  std::make_shared<Run>(*this, std::move(request), std::move(place))->Begin();
}

// A request left: those who wait may enter. One that is refused at once ends within Start, so the
// thread that is in the loop already goes on there instead of nesting deeper.
void EnsembleScheduler::Finished() {
  {
    MutexLock lock(mu_);
    --running_;
    if (starting_ || waiting_.empty()) return;
    starting_ = true;
  }
  while (true) {
    std::unique_ptr<InferRequest> next;
    {
      MutexLock lock(mu_);
      if (waiting_.empty() || running_ >= config_->ensemble_max_inflight_requests) {
        starting_ = false;
        return;
      }
      next = std::move(waiting_.front());
      waiting_.pop_front();
      ++running_;
    }
    statistics_.AddPending(-1);
    try {
      Start(std::move(next));
    } catch (const std::bad_alloc&) {  // dropped, and so answered; its place is free again
    }
  }
}

void EnsembleScheduler::TakeGone(Gone& gone) {
  const std::int64_t now_ns = clock_.NowNs();
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    absl::Status status = WaitingStatus(**it, now_ns);
    if (status.ok()) {
      ++it;
    } else {
      gone.emplace_back(std::move(*it), std::move(status));
      it = waiting_.erase(it);
    }
  }
}

bool EnsembleScheduler::RefuseGone() {
  Gone gone;
  {
    MutexLock lock(mu_);
    while (waiting_.empty() && !stopping_) changed_.Wait(mu_);
    if (!stopping_) changed_.WaitFor(mu_, kLookForGone);
    if (stopping_) return false;
    try {
      TakeGone(gone);
    } catch (const std::bad_alloc&) {
      if (gone.empty()) throw;
    }
  }
  for (auto& [request, status] : gone) RefuseWaiting(std::move(request), status);
  return true;
}

void EnsembleScheduler::RefuseWaiting(std::unique_ptr<InferRequest> request,
                                      const absl::Status& status) {
  statistics_.AddPending(-1);
  request->times.done_ns = clock_.NowNs();
  statistics_.RecordFailure(FailureReasonOf(status),
                            ElapsedNs(request->times.arrival_ns, request->times.done_ns));
  Refuse(std::move(request), status);
}

void EnsembleScheduler::Stop() {
  std::deque<std::unique_ptr<InferRequest>> left;
  {
    MutexLock lock(mu_);
    stopping_ = true;
    left.swap(waiting_);
  }
  changed_.NotifyAll();
  for (std::unique_ptr<InferRequest>& request : left) {
    RefuseWaiting(std::move(request), StoppedRefusal(config_->name));
  }
}

}  // namespace siglip
