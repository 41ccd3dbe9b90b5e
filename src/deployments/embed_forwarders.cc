#include "deployments/embed_forwarders.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "deployments/base64.h"
#include "serving/config_check.h"
#include "serving/item_errors.h"
#include "serving/overload.h"
#include "serving/refusals.h"
#include "serving/validate.h"

namespace siglip {
namespace {

constexpr const char* kEmbedding = "EMBEDDING";

void RefuseWithId(std::unique_ptr<InferRequest> request, const absl::Status& status) {
  const std::string prefix = RequestPrefix(*request);
  Refuse(std::move(request), PrefixStatus(status, prefix));
}

// Absent = `value` stays. InvalidArgument names parameter and expected type.
template <class T>
absl::Status ReadParameter(const InferRequest& request, const char* name, const char* type,
                           T& value) {
  const auto found = request.parameters.find(name);
  if (found == request.parameters.end()) return absl::OkStatus();
  const T* given = std::get_if<T>(&found->second);
  if (given == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("parameter '", name, "': expected ", type));
  }
  value = *given;
  return absl::OkStatus();
}

// One status for the items' own.
absl::Status JoinErrors(const std::vector<absl::Status>& statuses) {
  return JoinItemErrors(statuses.size(), ErrorsAmong(statuses));
}

bool IsDoor(const ModelConfig& config) { return config.parameter("step").starts_with("embed_"); }

// Whether a request to `config` comes to a door: then it could go round for ever. Ensembles are
// made of models and ensembles without a cycle; each is looked at once.
bool LeadsToDoor(const ModelAccess& models, const ModelConfig& config,
                 std::set<std::string>& ensembles) {
  if (IsDoor(config)) return true;
  return std::any_of(
      config.ensemble_steps.begin(), config.ensemble_steps.end(), [&](const EnsembleStep& step) {
        const auto target = models.ReadyConfig(step.model_name, step.version());
        if (!target.ok()) return false;
        const bool is_known = (*target)->is_ensemble() && !ensembles.insert(step.model_name).second;
        return !is_known && LeadsToDoor(models, **target, ensembles);
      });
}

std::string OutputText(const OutputTensor& output) {
  return absl::StrCat(output.name, " ", std::string(DataTypeName(output.datatype)), " ",
                      ShapeText(output.shape), " of ", output.data.size(), " bytes");
}

// What the model below answered, against what it was taken for. A model of another backend can
// answer other things than its configuration says.
absl::Status CheckAnswer(const InferResponse& answer, std::int64_t rows, std::int64_t width) {
  const std::vector<std::int64_t> shape = {rows, width};
  const std::vector<OutputTensor>& got = answer.outputs;
  const bool embedding =
      got.size() == 1 && got[0].name == kEmbedding && got[0].datatype == DataType::kFp32 &&
      got[0].shape == shape &&
      got[0].data.size() == static_cast<std::size_t>(rows * width) * sizeof(float);
  if (embedding) return absl::OkStatus();
  const std::string text =
      absl::StrJoin(got, " and ", [](std::string* out, const OutputTensor& output) {
        absl::StrAppend(out, OutputText(output));
      });
  return absl::InternalError(absl::StrCat("model '", answer.model_name, "': expected ", kEmbedding,
                                          " FP32 ", ShapeText(shape), ", got ",
                                          got.empty() ? "none" : text));
}

// Of a request's texts. Tokenizing takes 20 microseconds for a caption, and for each kilobyte 50 to
// 350 of words and up to 3000 of characters that become many; a change of threads takes 2 to 5, or
// some 100 on a busy machine. (Zen 3, SentencePiece.)
constexpr std::size_t kInlineTextBytes = 2 * 1024;
// What takes up to half a second, and 15 MB beside the text.
constexpr std::size_t kLongTextBytes = 256 * 1024;

// The rows of one request as the model below takes them, and what keeps them alive.
struct Rows {
  // Datatype, storage, the shape of one row; elements of all rows, or data of all rows.
  InputTensor input;
  std::size_t row_bytes = 0;
  std::int64_t input_tokens = 0;  // as InferResponse's
};

// How a request was split, and what is known of its answer beforehand.
struct Split {
  std::vector<std::int64_t> part_rows = {};
  std::int64_t width = 0;         // of a row of the answer
  bool batched = true;            // else the answer is one row, without a batch dimension
  std::int64_t input_tokens = 0;  // as InferResponse's
  std::int64_t start_ns = 0;
};

// What the parts of a split request come back to. Each part writes its own slot; the last one
// joins.
class Join {
 public:
  Join(std::unique_ptr<InferRequest> request, Split split)
      : request_(std::move(request)),
        split_(std::move(split)),
        answers_(split_.part_rows.size()),
        pending_(split_.part_rows.size()),
        sent_ns_(SteadyNowNs()) {}

  void Finish(std::size_t part, InferResponse answer) {
    if (answer.status.ok()) {
      answer.status = CheckAnswer(answer, split_.part_rows[part], split_.width);
    }
    answers_[part] = std::move(answer);
    // Acquire-release: the last one sees every slot.
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    const std::int64_t back_ns = SteadyNowNs();
    request_->times.infer_start_ns = sent_ns_;
    request_->times.infer_end_ns = back_ns;
    InferResponse response;
    response.status = JoinParts(response);
    if (!response.status.ok()) {
      RefuseWithId(std::move(request_), response.status);
      return;
    }
    if (!split_.batched) response.outputs[0].shape = {split_.width};
    response.input_tokens = split_.input_tokens;
    response.durations.input_ns = static_cast<std::uint64_t>(sent_ns_ - split_.start_ns);
    response.durations.infer_ns = static_cast<std::uint64_t>(back_ns - sent_ns_);
    response.durations.output_ns = static_cast<std::uint64_t>(SteadyNowNs() - back_ns);
    Answer(*request_, std::move(response));
  }

 private:
  absl::Status JoinParts(InferResponse& response) {
    if (answers_.size() == 1) {
      response.outputs = std::move(answers_[0].outputs);
      return answers_[0].status;
    }
    const std::vector<std::int64_t>& parts = split_.part_rows;
    const std::int64_t rows = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
    SIGLIP_RETURN_IF_ERROR(JoinStatuses(static_cast<std::size_t>(rows)));
    return Concatenate(rows, response);
  }

  // Errors of items are told under the numbers that the items have in the whole request; what is
  // wrong with a part, with all of its items.
  absl::Status JoinStatuses(std::size_t rows) const {
    std::vector<ItemError> items;
    std::string parts;
    absl::StatusCode code = absl::StatusCode::kOk;
    bool only_overload = true;
    std::size_t first = 0;
    for (std::size_t i = 0; i < answers_.size(); ++i) {
      const absl::Status& status = answers_[i].status;
      const auto count = static_cast<std::size_t>(split_.part_rows[i]);
      const std::vector<ItemError> own = ItemErrorsOf(status);
      for (const ItemError& error : own) {
        items.push_back({.item = first + error.item, .status = error.status});
      }
      if (!status.ok() && own.empty()) {
        code = status.code();
        absl::StrAppend(&parts, parts.empty() ? "" : "; ", "items ", first, "..", first + count - 1,
                        ": ", status.message());
      }
      only_overload = only_overload && (status.ok() || IsOverloaded(status));
      first += count;
    }
    const absl::Status joined = JoinItemErrors(rows, items);
    if (parts.empty()) return joined;
    if (only_overload) return OverloadedError(parts);
    return absl::Status(code, absl::StrCat(parts, joined.ok() ? "" : "; ", joined.message()));
  }

  absl::Status Concatenate(std::int64_t rows, InferResponse& response) {
    std::size_t bytes = 0;
    for (const InferResponse& answer : answers_) bytes += answer.outputs[0].data.size();
    try {
      auto block = std::make_shared<AlignedBuffer<std::byte>>(bytes);
      std::size_t at = 0;
      for (const InferResponse& answer : answers_) {
        const auto data = answer.outputs[0].data;
        std::memcpy(block->data() + at, data.data(), data.size());
        at += data.size();
      }
      OutputTensor output = answers_[0].outputs[0];
      output.shape[0] = rows;
      output.data = block->span();
      output.storage = std::move(block);
      response.outputs.push_back(std::move(output));
      return absl::OkStatus();
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("out of memory for the joined answer");
    }
  }

  std::unique_ptr<InferRequest> request_;
  const Split split_;
  std::vector<InferResponse> answers_;
  std::atomic<std::size_t> pending_;
  const std::int64_t sent_ns_;
};

class EmbedForwarder : public Forwarder {
 public:
  EmbedForwarder(std::shared_ptr<const Model> model, Door door, DataType input_type)
      : model_(std::move(model)), door_(std::move(door)), input_type_(input_type) {}

  void Forward(std::unique_ptr<InferRequest> request, ModelAccess& models) override {
    const std::int64_t start_ns = SteadyNowNs();
    std::string target = door_.embed_model;
    absl::Status status = ReadParameter(*request, "embed_model", "a string", target);
    absl::StatusOr<std::shared_ptr<const ModelConfig>> config = absl::UnknownError("not looked up");
    if (status.ok()) {
      config = FindTarget(models, target);
      status = config.status();
    }
    Rows rows;
    if (status.ok()) status = Prepare(*request, rows);
    if (!status.ok()) {
      // Nothing was sent on.
      request->times.infer_start_ns = request->times.infer_end_ns = SteadyNowNs();
      RefuseWithId(std::move(request), status);
      return;
    }
    Send(std::move(request), models, **config, std::move(rows), start_ns);
  }

 protected:
  const Model& model() const { return *model_; }
  // Turns the request's elements into the rows of the model below.
  virtual absl::Status Convert(const InferRequest& request, Rows& rows) const = 0;
  // The dims that the model below must take.
  virtual std::vector<std::int64_t> InputDims() const = 0;

 private:
  absl::Status Prepare(const InferRequest& request, Rows& rows) const {
    try {
      rows.input.shape = InputDims();
      return Convert(request, rows);
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("out of memory for the request's inputs");
    }
  }

  absl::StatusOr<std::shared_ptr<const ModelConfig>> FindTarget(ModelAccess& models,
                                                                const std::string& name) const {
    const auto config = models.ReadyConfig(name, "");
    if (!config.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameter 'embed_model': ", config.status().message()));
    }
    const ModelConfig& target = **config;
    std::set<std::string> ensembles;
    if (LeadsToDoor(models, target, ensembles)) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameter 'embed_model': model '", name,
                       "' is unsuitable: it leads to embed_image or embed_text"));
    }
    const bool takes = target.inputs.size() == 1 && target.inputs[0].datatype == input_type_ &&
                       DimsFit(target.inputs[0].dims, InputDims());
    const bool gives =
        target.outputs.size() == 1 && target.outputs[0].name == kEmbedding &&
        target.outputs[0].datatype == DataType::kFp32 &&
        DimsFit(target.outputs[0].dims, std::vector<std::int64_t>{model_->info().embedding_size});
    if (takes && gives && target.max_batch_size > 0) return config;
    return absl::InvalidArgumentError(absl::StrCat(
        "parameter 'embed_model': model '", name, "' is unsuitable: expected one input ",
        std::string(DataTypeName(input_type_)), " ", ShapeText(InputDims()),
        " and one output EMBEDDING FP32 [", model_->info().embedding_size, "], batched"));
  }

  void Send(std::unique_ptr<InferRequest> request, ModelAccess& models, const ModelConfig& target,
            Rows rows, std::int64_t start_ns) const {
    const bool bytes = rows.input.datatype == DataType::kBytes;
    const std::int64_t total = static_cast<std::int64_t>(
        bytes ? rows.input.elements.size() : rows.input.data.size() / rows.row_bytes);
    Split split{.width = model_->info().embedding_size,
                .batched = door_.batched,
                .input_tokens = rows.input_tokens,
                .start_ns = start_ns};
    for (std::int64_t left = total; left > 0; left -= split.part_rows.back()) {
      split.part_rows.push_back(std::min<std::int64_t>(left, target.max_batch_size));
    }
    std::vector<std::unique_ptr<InferRequest>> parts;
    std::size_t first = 0;
    for (const std::int64_t count : split.part_rows) {
      auto part = std::make_unique<InferRequest>();
      part->model_name = target.name;
      Inherit(*request, *part);
      InputTensor input;
      input.name = target.inputs[0].name;
      input.datatype = rows.input.datatype;
      input.shape = rows.input.shape;
      input.shape.insert(input.shape.begin(), count);
      input.storage = rows.input.storage;
      const auto size = static_cast<std::size_t>(count);
      if (bytes) {
        const auto begin = rows.input.elements.begin() + static_cast<std::ptrdiff_t>(first);
        input.elements.assign(begin, begin + static_cast<std::ptrdiff_t>(size));
      } else {
        input.data = rows.input.data.subspan(first * rows.row_bytes, size * rows.row_bytes);
      }
      part->inputs.push_back(std::move(input));
      parts.push_back(std::move(part));
      first += size;
    }
    auto join = std::make_shared<Join>(std::move(request), std::move(split));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      parts[i]->done = [join, i](InferResponse answer) { join->Finish(i, std::move(answer)); };
    }
    for (std::unique_ptr<InferRequest>& part : parts) models.InferWithin(std::move(part));
  }

  const std::shared_ptr<const Model> model_;
  const Door door_;
  const DataType input_type_;
};

class EmbedImageForwarder final : public EmbedForwarder {
 public:
  EmbedImageForwarder(std::shared_ptr<const Model> model, Door door)
      : EmbedForwarder(std::move(model), std::move(door), DataType::kBytes) {}

 private:
  std::vector<std::int64_t> InputDims() const override { return {1}; }

  absl::Status Convert(const InferRequest& request, Rows& rows) const override {
    bool base64 = false;
    SIGLIP_RETURN_IF_ERROR(ReadParameter(request, "base64_encoded", "true or false", base64));
    const InputTensor& input = request.inputs[0];
    rows.input.datatype = DataType::kBytes;
    if (!base64) {
      rows.input.elements = input.elements;
      // The request itself keeps its body alive until the answer.
      rows.input.storage = input.storage;
      return absl::OkStatus();
    }
    auto decoded = std::make_shared<std::vector<std::string>>();
    std::vector<absl::Status> statuses;
    for (const std::string_view element : input.elements) {
      auto image = DecodeBase64(element);
      statuses.push_back(image.status());
      decoded->push_back(image.ok() ? *std::move(image) : std::string());
    }
    SIGLIP_RETURN_IF_ERROR(JoinErrors(statuses));
    for (const std::string& image : *decoded) rows.input.elements.emplace_back(image);
    rows.input.storage = std::move(decoded);
    return absl::OkStatus();
  }
};

class EmbedTextForwarder final : public EmbedForwarder {
 public:
  EmbedTextForwarder(std::shared_ptr<const Model> model, Door door)
      : EmbedForwarder(std::move(model), std::move(door), DataType::kInt64) {}

 private:
  std::vector<std::int64_t> InputDims() const override { return {model().info().text_length}; }

  WorkLoad LoadOf(const InferRequest& request) const override {
    const std::size_t bytes = InputBytes(request);
    if (bytes <= kInlineTextBytes) return WorkLoad::kNone;
    return bytes <= kLongTextBytes ? WorkLoad::kSlow : WorkLoad::kVerySlow;
  }

  absl::Status Convert(const InferRequest& request, Rows& rows) const override {
    // As long as somebody waits for the answer.
    const auto give_up = [&request] { return !WaitingStatus(request, SteadyNowNs()).ok(); };
    auto ids = std::make_shared<std::vector<std::int64_t>>();
    std::vector<absl::Status> statuses;
    for (const std::string_view text : request.inputs[0].elements) {
      const auto row = model().TokenizeUntil(text, give_up);
      if (absl::IsCancelled(row.status())) {
        const absl::Status gone = WaitingStatus(request, SteadyNowNs());
        return gone.ok() ? row.status() : gone;
      }
      statuses.push_back(row.status());
      if (!row.ok()) continue;
      ids->insert(ids->end(), row->ids.begin(), row->ids.end());
      // Padding can look like a text's own ids, so it is not counted in the rows.
      if (request.count_tokens) rows.input_tokens += row->unpadded;
    }
    SIGLIP_RETURN_IF_ERROR(JoinErrors(statuses));
    rows.input.datatype = DataType::kInt64;
    rows.input.data = std::as_bytes(std::span(*ids));
    rows.input.storage = std::move(ids);
    rows.row_bytes = static_cast<std::size_t>(model().info().text_length) * sizeof(std::int64_t);
    return absl::OkStatus();
  }
};

}  // namespace

std::shared_ptr<Forwarder> MakeEmbedImageForwarder(std::shared_ptr<const Model> model, Door door) {
  return std::make_shared<EmbedImageForwarder>(std::move(model), std::move(door));
}

std::shared_ptr<Forwarder> MakeEmbedTextForwarder(std::shared_ptr<const Model> model, Door door) {
  return std::make_shared<EmbedTextForwarder>(std::move(model), std::move(door));
}

}  // namespace siglip
