#include "triton/host/fake_core.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

namespace {

[[noreturn]] void Violation(const std::string& text) {
  std::fprintf(stderr, "ABI violation: %s\n", text.c_str());
  std::abort();
}

void Demand(bool condition, const std::string& text) {
  if (!condition) Violation(text);
}

// Every object of the ABI that exists. Leaked on purpose: threads may outlive statics.
struct Registry {
  std::mutex mu;
  std::map<const void*, std::string> live;
  std::string log;
  std::uint32_t api_minor = 0;  // of the newest core
};
Registry& Objects() {
  static auto* registry = new Registry;
  return *registry;
}

// Base of the ABI's objects: known while they exist.
class Object {
 public:
  explicit Object(const char* kind) {
    const std::lock_guard lock(Objects().mu);
    Objects().live[this] = kind;
  }
  ~Object() {
    const std::lock_guard lock(Objects().mu);
    Objects().live.erase(this);
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  static void Check(const void* object, const char* kind, const char* call) {
    const std::lock_guard lock(Objects().mu);
    const auto found = Objects().live.find(object);
    Demand(found != Objects().live.end(),
           std::string(call) + ": got a " + kind + " that does not exist (any more)");
    Demand(found->second == kind,
           std::string(call) + ": expected a " + kind + ", got a " + found->second);
  }
};

}  // namespace

struct TRITONSERVER_Error : Object {
  TRITONSERVER_Error(TRITONSERVER_Error_Code error_code, std::string text)
      : Object("error"), code(error_code), message(std::move(text)) {}
  const TRITONSERVER_Error_Code code;
  const std::string message;
};

struct TRITONSERVER_Message : Object {
  explicit TRITONSERVER_Message(std::string text) : Object("message"), json(std::move(text)) {}
  const std::string json;
};

struct TRITONSERVER_ResponseAllocator : Object {
  TRITONSERVER_ResponseAllocator() : Object("allocator") {}
  TRITONSERVER_ResponseAllocatorAllocFn_t alloc = nullptr;
  TRITONSERVER_ResponseAllocatorReleaseFn_t release = nullptr;
};

struct TRITONBACKEND_Input : Object {
  TRITONBACKEND_Input() : Object("input") {}
  struct Buffer {
    const void* base;
    std::size_t bytes;
    TRITONSERVER_MemoryType memory;
  };
  std::string name;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  std::vector<std::int64_t> shape;
  std::vector<Buffer> buffers;
  std::size_t total() const {
    std::size_t bytes = 0;
    for (const Buffer& buffer : buffers) bytes += buffer.bytes;
    return bytes;
  }
};

// The core has one class for both sides of a request, and so has this.
struct TRITONSERVER_InferenceRequest : Object {
  TRITONSERVER_InferenceRequest() : Object("request") {}
  siglip::triton::FakeModel* model = nullptr;
  std::string id;
  std::string id_throws;
  std::string report_throws;
  std::vector<std::string> requested_outputs;
  std::uint64_t timeout_us = 0;
  std::vector<std::unique_ptr<TRITONBACKEND_Input>> inputs;
  std::vector<std::pair<std::string, siglip::triton::FakeParameter>> parameters;
  TRITONSERVER_InferenceRequestReleaseFn_t release = nullptr;
  void* release_userp = nullptr;
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  void* allocator_userp = nullptr;
  TRITONSERVER_InferenceResponseCompleteFn_t respond = nullptr;
  void* respond_userp = nullptr;
  bool cancelled = false;
  bool in_flight = false;
  bool with_backend = false;
  int final_responses = 0;
  int reports = 0;
};

struct TRITONBACKEND_Output : Object {
  TRITONBACKEND_Output() : Object("output") {}
  TRITONSERVER_InferenceRequest* request = nullptr;
  std::string name;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  std::vector<std::int64_t> shape;
  bool allocated = false;
  void* buffer = nullptr;
  void* buffer_userp = nullptr;
  std::size_t bytes = 0;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_id = 0;
};

struct TRITONSERVER_InferenceResponse : Object {
  TRITONSERVER_InferenceResponse() : Object("response") {}
  TRITONSERVER_InferenceRequest* request = nullptr;
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  std::vector<std::unique_ptr<TRITONBACKEND_Output>> outputs;
  std::optional<std::pair<TRITONSERVER_Error_Code, std::string>> error;

  void FreeOutputs() {
    for (const auto& output : outputs) {
      if (!output->allocated) continue;
      Object::Check(allocator, "allocator", "response");
      Demand(allocator->release(allocator, output->buffer, output->buffer_userp, output->bytes,
                                output->memory, output->memory_id) == nullptr,
             "release of an output failed");
    }
    outputs.clear();
  }
};

struct TRITONBACKEND_Backend : Object {
  TRITONBACKEND_Backend() : Object("backend") {}
  using BackendFn = TRITONSERVER_Error* (*)(TRITONBACKEND_Backend*);
  using ModelFn = TRITONSERVER_Error* (*)(TRITONBACKEND_Model*);
  using InstanceFn = TRITONSERVER_Error* (*)(TRITONBACKEND_ModelInstance*);
  void* library = nullptr;
  siglip::triton::FakeCore* core = nullptr;
  BackendFn finalize = nullptr;
  ModelFn model_initialize = nullptr;
  ModelFn model_finalize = nullptr;
  InstanceFn instance_initialize = nullptr;
  TRITONSERVER_Error* (*execute)(TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request**,
                                 std::uint32_t) = nullptr;
  void* state = nullptr;
  std::unique_ptr<TRITONSERVER_Message> config_message;
};

struct TRITONBACKEND_BackendAttribute : Object {
  TRITONBACKEND_BackendAttribute() : Object("attribute") {}
  int groups = 0;
};

struct TRITONBACKEND_Model : Object {
  TRITONBACKEND_Model() : Object("model") {}
  siglip::triton::FakeCore* core = nullptr;
  TRITONBACKEND_Backend* backend = nullptr;
  std::string name;
  std::string directory;
  nlohmann::json config;
  void* state = nullptr;
  bool initializing = false;
};

struct TRITONBACKEND_ModelInstance : Object {
  TRITONBACKEND_ModelInstance() : Object("instance") {}
  siglip::triton::FakeModel* owner = nullptr;
  TRITONBACKEND_Model* model = nullptr;
  std::string name;
  TRITONSERVER_InstanceGroupKind kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
};

namespace siglip::triton {
namespace {

using Request = TRITONSERVER_InferenceRequest;

std::string TakeText(TRITONSERVER_Error* error) {
  if (error == nullptr) return {};
  std::string text = error->message;
  delete error;
  return text;
}

TRITONSERVER_Error* NewError(TRITONSERVER_Error_Code code, std::string text) {
  return new TRITONSERVER_Error(code, std::move(text));
}

void SendResponse(std::unique_ptr<TRITONSERVER_InferenceResponse> response, std::uint32_t flags) {
  Request* request = response->request;
  if (response->error) response->FreeOutputs();
  request->final_responses += (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0 ? 1 : 0;
  request->respond(response.release(), flags, request->respond_userp);
}

void ReleaseRequest(Request* request) {
  request->in_flight = false;
  request->release(request, TRITONSERVER_REQUEST_RELEASE_ALL, request->release_userp);
}

}  // namespace

// A model and its instances, each with a thread.
class FakeModel {
 public:
  FakeModel(FakeCore& core, const nlohmann::json& config) {
    model_.core = &core;
    model_.name = config.at("name");
    model_.config = config;
  }

  std::string Load(TRITONBACKEND_Backend* backend, const std::string& directory, int num_instances,
                   TRITONSERVER_InstanceGroupKind kind) {
    model_.backend = backend;
    model_.directory = directory;
    model_.initializing = true;
    std::string error = TakeText(backend->model_initialize(&model_));
    model_.initializing = false;
    if (!error.empty()) {
      // As the real core: a model that was made is finalized, initialized or not.
      error += TakeText(backend->model_finalize(&model_));
      return error;
    }
    for (int i = 0; i < num_instances; ++i) {
      auto instance = std::make_unique<TRITONBACKEND_ModelInstance>();
      instance->owner = this;
      instance->model = &model_;
      instance->name = model_.name + "_" + std::to_string(i);
      instance->kind = kind;
      error = TakeText(backend->instance_initialize(instance.get()));
      if (!error.empty()) Violation("instance: " + error);
      instances_.push_back(std::move(instance));
    }
    for (const auto& instance : instances_) {
      threads_.emplace_back([this, raw = instance.get()] { Work(raw); });
    }
    return {};
  }

  void Host(HostModel host) {
    host_ = std::move(host);
    threads_.emplace_back([this] { WorkHost(); });
  }

  // Waits until no request is left, then ends threads and model.
  void Unload() {
    {
      std::unique_lock lock(mu_);
      held_ = false;
      changed_.notify_all();
      changed_.wait(lock, [&] { return in_flight_ == 0; });
      stopping_ = true;
      changed_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    instances_.clear();
    if (model_.backend != nullptr) {
      const std::string error = TakeText(model_.backend->model_finalize(&model_));
      Demand(error.empty(), "ModelFinalize: " + error);
      Demand(model_.state == nullptr, "ModelFinalize left its state behind");
    }
  }

  void Enqueue(Request* request) {
    const std::lock_guard lock(mu_);
    Demand(!stopping_, "request for a model that is being unloaded");
    if (request->requested_outputs.empty()) {
      for (const nlohmann::json& output : model_.config.at("output")) {
        request->requested_outputs.push_back(output.at("name"));
      }
    }
    ++in_flight_;
    queue_.push_back(request);
    changed_.notify_all();
  }

  void Released() {
    const std::lock_guard lock(mu_);
    --in_flight_;
    changed_.notify_all();
  }

  void SetHeld(bool held) {
    const std::lock_guard lock(mu_);
    held_ = held;
    changed_.notify_all();
  }

  void Report(bool success) {
    const std::lock_guard lock(mu_);
    ++(success ? statistics_.success : statistics_.fail);
  }
  void ReportBatch(std::uint64_t rows) {
    const std::lock_guard lock(mu_);
    ++statistics_.executions;
    statistics_.rows += static_cast<std::int64_t>(rows);
  }
  FakeStatistics statistics() const {
    const std::lock_guard lock(mu_);
    return statistics_;
  }
  int executed() const {
    const std::lock_guard lock(mu_);
    return executed_;
  }
  const nlohmann::json& config() const { return model_.config; }
  bool batches() const { return model_.config.contains("dynamic_batching"); }

 private:
  // A batch; empty when the model ends.
  std::vector<Request*> Next() {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return stopping_ || (!held_ && !queue_.empty()); });
    std::vector<Request*> batch;
    if (stopping_) return batch;
    const std::size_t most = batches() ? queue_.size() : 1;
    batch.assign(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(most));
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(most));
    return batch;
  }

  void Work(TRITONBACKEND_ModelInstance* instance) {
    for (;;) {
      const std::vector<Request*> batch = Next();
      if (batch.empty()) return;
      std::vector<TRITONBACKEND_Request*> requests;
      for (Request* request : batch) {
        request->with_backend = true;
        requests.push_back(reinterpret_cast<TRITONBACKEND_Request*>(request));
      }
      TRITONSERVER_Error* error = model_.backend->execute(
          instance, requests.data(), static_cast<std::uint32_t>(requests.size()));
      if (error != nullptr) Refuse(batch, error);
      const std::lock_guard lock(mu_);
      ++executed_;
    }
  }

  // The backend did not take the batch.
  void Refuse(const std::vector<Request*>& batch, TRITONSERVER_Error* error) {
    for (Request* request : batch) {
      Object::Check(request, "request", "Execute that returned an error");
      Demand(request->final_responses == 0, "Execute returned an error after it had answered");
      auto response = std::make_unique<TRITONSERVER_InferenceResponse>();
      response->request = request;
      response->error.emplace(error->code, error->message);
      SendResponse(std::move(response), TRITONSERVER_RESPONSE_COMPLETE_FINAL);
      Report(false);
      ReleaseRequest(request);
      Released();
    }
    delete error;
  }

  void WorkHost() {
    for (;;) {
      const std::vector<Request*> batch = Next();
      if (batch.empty()) return;
      {
        // Before it answers: whoever has the answer may ask.
        const std::lock_guard lock(mu_);
        ++executed_;
      }
      for (Request* request : batch) AnswerAsHost(request);
    }
  }

  void AnswerAsHost(Request* request) {
    FakeTensor input;
    const TRITONBACKEND_Input& given = *request->inputs.at(0);
    input.name = given.name;
    input.type = given.type;
    input.shape = given.shape;
    for (const auto& buffer : given.buffers) {
      input.bytes.append(static_cast<const char*>(buffer.base), buffer.bytes);
    }
    const FakeAnswer answer = host_.answer(input);
    const auto respond = request->respond;
    void* const userp = request->respond_userp;
    TRITONSERVER_ResponseAllocator* const allocator = request->allocator;
    void* const allocator_userp = request->allocator_userp;
    if (host_.release_first) ReleaseRequest(request);
    for (int i = 0; i < host_.num_answers; ++i) {
      auto response = std::make_unique<TRITONSERVER_InferenceResponse>();
      response->allocator = allocator;
      if (answer.code >= 0) {
        response->error.emplace(static_cast<TRITONSERVER_Error_Code>(answer.code), answer.message);
      }
      for (const FakeTensor& tensor : answer.outputs) {
        response->outputs.push_back(Output(tensor, allocator, allocator_userp));
      }
      respond(response.release(),
              i + 1 == host_.num_answers ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0, userp);
    }
    if (host_.num_answers == 0) respond(nullptr, TRITONSERVER_RESPONSE_COMPLETE_FINAL, userp);
    if (!host_.release_first) ReleaseRequest(request);
    Released();
  }

  static std::unique_ptr<TRITONBACKEND_Output> Output(const FakeTensor& tensor,
                                                      TRITONSERVER_ResponseAllocator* allocator,
                                                      void* userp) {
    auto output = std::make_unique<TRITONBACKEND_Output>();
    output->name = tensor.name;
    output->type = tensor.type;
    output->shape = tensor.shape;
    output->bytes = tensor.bytes.size();
    Demand(allocator->alloc(allocator, tensor.name.c_str(), output->bytes, TRITONSERVER_MEMORY_CPU,
                            0, userp, &output->buffer, &output->buffer_userp, &output->memory,
                            &output->memory_id) == nullptr,
           "allocation of an output failed");
    output->allocated = true;
    if (!tensor.bytes.empty()) std::memcpy(output->buffer, tensor.bytes.data(), output->bytes);
    return output;
  }

  TRITONBACKEND_Model model_;
  HostModel host_;
  std::vector<std::unique_ptr<TRITONBACKEND_ModelInstance>> instances_;
  std::vector<std::thread> threads_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::deque<Request*> queue_;
  int in_flight_ = 0;
  int executed_ = 0;
  bool held_ = false;
  bool stopping_ = false;
  FakeStatistics statistics_;
};

namespace {

// A client's request: what it sent, where the answer goes. Lives until both callbacks came.
struct ClientCall {
  FakeRequest given;
  std::vector<std::unique_ptr<char[]>> buffers;  // each of its own, freed at the release
  std::promise<FakeAnswer> answer;
  FakeAnswer received;
  int answers = 0;
  std::atomic<int> pending{2};

  void Arrive() {
    if (pending.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    Demand(answers == 1, "a request got " + std::to_string(answers) + " answers");
    answer.set_value(std::move(received));
    delete this;
  }
};

// A client's outputs, at the misalignment that it asked for.
TRITONSERVER_Error* ClientAlloc(TRITONSERVER_ResponseAllocator*, const char*, std::size_t bytes,
                                TRITONSERVER_MemoryType, std::int64_t, void* userp, void** buffer,
                                void** buffer_userp, TRITONSERVER_MemoryType* memory,
                                std::int64_t* memory_id) {
  const auto& given = static_cast<ClientCall*>(userp)->given;
  char* block = static_cast<char*>(std::malloc(bytes + given.misalignment + 1));
  *buffer_userp = block;
  *buffer = block + given.misalignment;
  *memory = given.output_memory;
  *memory_id = 0;
  return nullptr;
}

TRITONSERVER_Error* ClientFree(TRITONSERVER_ResponseAllocator*, void*, void* buffer_userp,
                               std::size_t, TRITONSERVER_MemoryType, std::int64_t) {
  std::free(buffer_userp);
  return nullptr;
}

void ClientRelease(Request* request, std::uint32_t, void* userp) {
  auto* call = static_cast<ClientCall*>(userp);
  call->buffers.clear();
  delete request;
  call->Arrive();
}

void ClientRespond(TRITONSERVER_InferenceResponse* response, std::uint32_t, void* userp) {
  auto* call = static_cast<ClientCall*>(userp);
  ++call->answers;
  if (response->error) {
    call->received.code = response->error->first;
    call->received.message = response->error->second;
  }
  for (const auto& output : response->outputs) {
    call->received.outputs.push_back(
        {output->name, output->type, output->shape,
         std::string(static_cast<const char*>(output->buffer), output->bytes)});
  }
  response->FreeOutputs();
  delete response;
  call->Arrive();
}

TRITONSERVER_ResponseAllocator& ClientAllocator() {
  static auto* allocator = [] {
    auto* made = new TRITONSERVER_ResponseAllocator;
    made->alloc = &ClientAlloc;
    made->release = &ClientFree;
    return made;
  }();
  return *allocator;
}

// The input in `num_buffers` pieces, each at an address of the given misalignment.
void AddInput(ClientCall& call, Request& request) {
  const FakeRequest& given = call.given;
  auto input = std::make_unique<TRITONBACKEND_Input>();
  input->name = given.input.name;
  input->type = given.input.type;
  input->shape = given.input.shape;
  std::size_t at = 0;
  for (std::size_t i = 0; i < given.num_buffers; ++i) {
    const std::size_t end = given.input.bytes.size() * (i + 1) / given.num_buffers;
    auto block = std::make_unique<char[]>(end - at + given.misalignment + 1);
    char* const base = block.get() + given.misalignment;
    if (end > at) std::memcpy(base, given.input.bytes.data() + at, end - at);
    input->buffers.push_back({base, end - at, given.input_memory});
    call.buffers.push_back(std::move(block));
    at = end;
  }
  request.inputs.push_back(std::move(input));
}

template <class Fn>
void Look(void* library, const char* name, Fn& fn) {
  fn = reinterpret_cast<Fn>(dlsym(library, name));
  Demand(fn != nullptr, std::string("the library has no ") + name);
}

}  // namespace

FakeCore::FakeCore(FakeCoreOptions options) : options_(std::move(options)) {
  ClientAllocator();
  TakeLog();
  const std::lock_guard lock(Objects().mu);
  Objects().api_minor = options_.api_minor;
}

FakeCore::~FakeCore() {
  std::vector<std::string> names;
  for (const auto& [name, model] : models_) names.push_back(name);
  // Those that send requests to others go first.
  std::stable_sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    return a.starts_with("embed_") && !b.starts_with("embed_");
  });
  for (const std::string& name : names) Unload(name);
  for (auto& [name, backend] : backends_) {
    const std::string error = TakeText(backend->finalize(backend.get()));
    Demand(error.empty(), "Finalize: " + error);
    Demand(backend->state == nullptr, "Finalize left its state behind");
  }
  backends_.clear();
  const std::lock_guard lock(Objects().mu);
  for (const auto& [object, kind] : Objects().live) {
    if (object != &ClientAllocator()) Violation("a " + kind + " is left over at the end");
  }
}

std::string FakeCore::LoadBackend(const std::string& name, const std::string& path) {
  auto backend = std::make_unique<TRITONBACKEND_Backend>();
  // As the real core: at once, so that a missing symbol shows, and without lending symbols to other
  // libraries.
  backend->library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (backend->library == nullptr) return dlerror();
  backend->core = this;
  nlohmann::json cmdline = {
      {"auto-complete-config", options_.auto_complete_config ? "true" : "false"},
      {"backend-directory", "/opt/tritonserver/backends"},
      {"min-compute-capability", "6.000000"},
      {"default-max-batch-size", "4"}};
  for (const auto& [key, value] : options_.backend_config) cmdline[key] = value;
  backend->config_message =
      std::make_unique<TRITONSERVER_Message>(nlohmann::json{{"cmdline", cmdline}}.dump());
  TRITONBACKEND_Backend::BackendFn initialize = nullptr;
  TRITONSERVER_Error* (*attribute)(TRITONBACKEND_Backend*, TRITONBACKEND_BackendAttribute*) =
      nullptr;
  Look(backend->library, "TRITONBACKEND_Initialize", initialize);
  Look(backend->library, "TRITONBACKEND_Finalize", backend->finalize);
  Look(backend->library, "TRITONBACKEND_GetBackendAttribute", attribute);
  Look(backend->library, "TRITONBACKEND_ModelInitialize", backend->model_initialize);
  Look(backend->library, "TRITONBACKEND_ModelFinalize", backend->model_finalize);
  Look(backend->library, "TRITONBACKEND_ModelInstanceInitialize", backend->instance_initialize);
  Look(backend->library, "TRITONBACKEND_ModelInstanceExecute", backend->execute);
  std::string error = TakeText(initialize(backend.get()));
  if (!error.empty()) return error;
  TRITONBACKEND_BackendAttribute attributes;
  error = TakeText(attribute(backend.get(), &attributes));
  Demand(attributes.groups == 1, "expected one preferred instance group");
  backends_[name] = std::move(backend);
  return error;
}

std::string FakeCore::LoadModel(const nlohmann::json& config, const std::string& directory,
                                int num_instances, TRITONSERVER_InstanceGroupKind kind) {
  auto model = std::make_shared<FakeModel>(*this, config);
  std::string error =
      model->Load(backends_.at(config.at("backend")).get(), directory, num_instances, kind);
  if (!error.empty()) return error;
  const std::lock_guard lock(mu_);
  models_[config.at("name")] = std::move(model);
  return {};
}

void FakeCore::AddHostModel(const nlohmann::json& config, HostModel host) {
  auto model = std::make_shared<FakeModel>(*this, config);
  model->Host(std::move(host));
  const std::lock_guard lock(mu_);
  models_[config.at("name")] = std::move(model);
}

void FakeCore::Unload(const std::string& name) {
  std::shared_ptr<FakeModel> model;
  {
    const std::lock_guard lock(mu_);
    model = models_.at(name);
    models_.erase(name);
  }
  model->Unload();
}

FakeModel* FakeCore::Find(const std::string& name) const {
  const std::lock_guard lock(mu_);
  const auto found = models_.find(name);
  return found == models_.end() ? nullptr : found->second.get();
}

std::future<FakeAnswer> FakeCore::Send(const FakeRequest& given) {
  auto* call = new ClientCall;
  call->given = given;
  std::future<FakeAnswer> answer = call->answer.get_future();
  auto* request = new Request;
  request->model = Find(given.model);
  Demand(request->model != nullptr, "the test sends to an unknown model: " + given.model);
  request->id = given.id;
  request->id_throws = given.id_throws;
  request->report_throws = given.report_throws;
  request->requested_outputs = given.outputs;
  request->cancelled = given.cancelled;
  request->parameters.assign(given.parameters.begin(), given.parameters.end());
  AddInput(*call, *request);
  request->release = &ClientRelease;
  request->release_userp = call;
  request->allocator = &ClientAllocator();
  request->allocator_userp = call;
  request->respond = &ClientRespond;
  request->respond_userp = call;
  request->in_flight = true;
  request->model->Enqueue(request);
  return answer;
}

void FakeCore::Hold(const std::string& model) { Find(model)->SetHeld(true); }
void FakeCore::Resume(const std::string& model) { Find(model)->SetHeld(false); }
int FakeCore::Executed(const std::string& model) const { return Find(model)->executed(); }
FakeStatistics FakeCore::Statistics(const std::string& model) const {
  return Find(model)->statistics();
}
nlohmann::json FakeCore::Config(const std::string& model) const { return Find(model)->config(); }

std::string FakeCore::TakeLog() {
  const std::lock_guard lock(Objects().mu);
  return std::exchange(Objects().log, {});
}

int FakeCore::LiveObjects() {
  const std::lock_guard lock(Objects().mu);
  return static_cast<int>(Objects().live.size());
}

}  // namespace siglip::triton

// The functions that a backend library finds in the process.

using siglip::triton::FakeCore;
using siglip::triton::FakeModel;

namespace {

TRITONSERVER_InferenceRequest* RequestOf(TRITONBACKEND_Request* given, const char* call) {
  auto* request = reinterpret_cast<TRITONSERVER_InferenceRequest*>(given);
  Object::Check(request, "request", call);
  Demand(request->with_backend, std::string(call) + ": the request is not the backend's");
  return request;
}

TRITONSERVER_InferenceResponse* ResponseOf(TRITONBACKEND_Response* given, const char* call) {
  auto* response = reinterpret_cast<TRITONSERVER_InferenceResponse*>(given);
  Object::Check(response, "response", call);
  return response;
}

FakeCore* CoreOf(TRITONSERVER_Server* server) { return reinterpret_cast<FakeCore*>(server); }

void DemandOrder(std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d) {
  Demand(0 < a && a <= b && b <= c && c <= d, "statistics: times out of order");
}

TRITONSERVER_Error* Unknown(const char* name) {
  return siglip::triton::NewError(
      TRITONSERVER_ERROR_NOT_FOUND,
      "Request for unknown model: '" + std::string(name) + "' is not found");
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char* msg) {
  return new TRITONSERVER_Error(code, msg);
}
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error) {
  Object::Check(error, "error", "ErrorDelete");
  delete error;
}
TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error* error) {
  Object::Check(error, "error", "ErrorCode");
  return error->code;
}
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error) {
  Object::Check(error, "error", "ErrorMessage");
  return error->message.c_str();
}

TRITONSERVER_Error* TRITONSERVER_LogMessage(TRITONSERVER_LogLevel level, const char*, const int,
                                            const char* msg) {
  const std::lock_guard lock(Objects().mu);
  Objects().log += std::to_string(level) + " " + msg + "\n";
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MessageNewFromSerializedJson(TRITONSERVER_Message** message,
                                                              const char* base,
                                                              std::size_t byte_size) {
  *message = new TRITONSERVER_Message(std::string(base, byte_size));
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message* message) {
  Object::Check(message, "message", "MessageDelete");
  delete message;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message* message,
                                                        const char** base, std::size_t* byte_size) {
  Object::Check(message, "message", "MessageSerializeToJson");
  *base = message->json.data();
  *byte_size = message->json.size();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(
    TRITONSERVER_ResponseAllocator** allocator, TRITONSERVER_ResponseAllocatorAllocFn_t alloc_fn,
    TRITONSERVER_ResponseAllocatorReleaseFn_t release_fn, TRITONSERVER_ResponseAllocatorStartFn_t) {
  *allocator = new TRITONSERVER_ResponseAllocator;
  (*allocator)->alloc = alloc_fn;
  (*allocator)->release = release_fn;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorDelete(
    TRITONSERVER_ResponseAllocator* allocator) {
  Object::Check(allocator, "allocator", "ResponseAllocatorDelete");
  delete allocator;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(
    TRITONSERVER_InferenceRequest** inference_request, TRITONSERVER_Server* server,
    const char* model_name, const std::int64_t) {
  FakeModel* const model = CoreOf(server)->Find(model_name);
  if (model == nullptr) return Unknown(model_name);
  *inference_request = new TRITONSERVER_InferenceRequest;
  (*inference_request)->model = model;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(
    TRITONSERVER_InferenceRequest* inference_request) {
  Object::Check(inference_request, "request", "InferenceRequestDelete");
  Demand(!inference_request->in_flight, "InferenceRequestDelete of a request in flight");
  delete inference_request;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetId(
    TRITONSERVER_InferenceRequest* inference_request, const char* id) {
  Object::Check(inference_request, "request", "InferenceRequestSetId");
  inference_request->id = id;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(
    TRITONSERVER_InferenceRequest* inference_request, std::uint64_t timeout_us) {
  Object::Check(inference_request, "request", "InferenceRequestSetTimeoutMicroseconds");
  inference_request->timeout_us = timeout_us;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddInput(
    TRITONSERVER_InferenceRequest* inference_request, const char* name,
    const TRITONSERVER_DataType datatype, const std::int64_t* shape, std::uint64_t dim_count) {
  Object::Check(inference_request, "request", "InferenceRequestAddInput");
  auto input = std::make_unique<TRITONBACKEND_Input>();
  input->name = name;
  input->type = datatype;
  input->shape.assign(shape, shape + dim_count);
  inference_request->inputs.push_back(std::move(input));
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(
    TRITONSERVER_InferenceRequest* inference_request, const char* name, const void* base,
    std::size_t byte_size, TRITONSERVER_MemoryType memory_type, std::int64_t) {
  Object::Check(inference_request, "request", "InferenceRequestAppendInputData");
  for (const auto& input : inference_request->inputs) {
    if (input->name == name) input->buffers.push_back({base, byte_size, memory_type});
  }
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(
    TRITONSERVER_InferenceRequest* inference_request,
    TRITONSERVER_InferenceRequestReleaseFn_t request_release_fn, void* request_release_userp) {
  Object::Check(inference_request, "request", "InferenceRequestSetReleaseCallback");
  inference_request->release = request_release_fn;
  inference_request->release_userp = request_release_userp;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(
    TRITONSERVER_InferenceRequest* inference_request,
    TRITONSERVER_ResponseAllocator* response_allocator, void* response_allocator_userp,
    TRITONSERVER_InferenceResponseCompleteFn_t response_fn, void* response_userp) {
  Object::Check(inference_request, "request", "InferenceRequestSetResponseCallback");
  Object::Check(response_allocator, "allocator", "InferenceRequestSetResponseCallback");
  inference_request->allocator = response_allocator;
  inference_request->allocator_userp = response_allocator_userp;
  inference_request->respond = response_fn;
  inference_request->respond_userp = response_userp;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(
    TRITONSERVER_InferenceResponse* inference_response) {
  Object::Check(inference_response, "response", "InferenceResponseDelete");
  inference_response->FreeOutputs();
  delete inference_response;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(
    TRITONSERVER_InferenceResponse* inference_response) {
  Object::Check(inference_response, "response", "InferenceResponseError");
  if (!inference_response->error) return nullptr;
  return siglip::triton::NewError(inference_response->error->first,
                                  inference_response->error->second);
}
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(
    TRITONSERVER_InferenceResponse* inference_response, std::uint32_t* count) {
  Object::Check(inference_response, "response", "InferenceResponseOutputCount");
  *count = static_cast<std::uint32_t>(inference_response->outputs.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(
    TRITONSERVER_InferenceResponse* inference_response, const std::uint32_t index,
    const char** name, TRITONSERVER_DataType* datatype, const std::int64_t** shape,
    std::uint64_t* dim_count, const void** base, std::size_t* byte_size,
    TRITONSERVER_MemoryType* memory_type, std::int64_t* memory_type_id, void** userp) {
  Object::Check(inference_response, "response", "InferenceResponseOutput");
  const TRITONBACKEND_Output& output = *inference_response->outputs.at(index);
  *name = output.name.c_str();
  *datatype = output.type;
  *shape = output.shape.data();
  *dim_count = output.shape.size();
  *base = output.buffer;
  *byte_size = output.bytes;
  *memory_type = output.memory;
  *memory_type_id = output.memory_id;
  *userp = output.buffer_userp;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceSpawnChildTrace(TRITONSERVER_InferenceTrace*,
                                                               TRITONSERVER_InferenceTrace**) {
  Violation("InferenceTraceSpawnChildTrace of a request that is not traced");
}

TRITONSERVER_Error* TRITONSERVER_ServerModelIsReady(TRITONSERVER_Server* server,
                                                    const char* model_name, const std::int64_t,
                                                    bool* ready) {
  *ready = CoreOf(server)->Find(model_name) != nullptr;
  return *ready ? nullptr : Unknown(model_name);
}
TRITONSERVER_Error* TRITONSERVER_ServerModelConfig(TRITONSERVER_Server* server,
                                                   const char* model_name, const std::int64_t,
                                                   const std::uint32_t config_version,
                                                   TRITONSERVER_Message** model_config) {
  Demand(config_version == 1, "ServerModelConfig: expected version 1");
  FakeModel* const model = CoreOf(server)->Find(model_name);
  if (model == nullptr) return Unknown(model_name);
  *model_config = new TRITONSERVER_Message(model->config().dump());
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(TRITONSERVER_Server*,
                                                  TRITONSERVER_InferenceRequest* inference_request,
                                                  TRITONSERVER_InferenceTrace* trace) {
  Object::Check(inference_request, "request", "ServerInferAsync");
  Demand(trace == nullptr, "ServerInferAsync: a trace that nobody made");
  Demand(inference_request->release != nullptr, "ServerInferAsync without a release callback");
  Demand(inference_request->respond != nullptr, "ServerInferAsync without a response callback");
  Demand(!inference_request->in_flight, "ServerInferAsync of a request in flight");
  const nlohmann::json& config = inference_request->model->config();
  Demand(inference_request->inputs.at(0)->shape.at(0) <= config.at("max_batch_size"),
         "ServerInferAsync: more rows than the model takes");
  if (config.contains("refuses")) {
    return siglip::triton::NewError(TRITONSERVER_ERROR_UNAVAILABLE, "refused");
  }
  inference_request->in_flight = true;
  inference_request->model->Enqueue(inference_request);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_InputProperties(TRITONBACKEND_Input* input, const char** name,
                                                  TRITONSERVER_DataType* datatype,
                                                  const std::int64_t** shape,
                                                  std::uint32_t* dims_count,
                                                  std::uint64_t* byte_size,
                                                  std::uint32_t* buffer_count) {
  Object::Check(input, "input", "InputProperties");
  *name = input->name.c_str();
  *datatype = input->type;
  *shape = input->shape.data();
  *dims_count = static_cast<std::uint32_t>(input->shape.size());
  *byte_size = input->total();
  *buffer_count = static_cast<std::uint32_t>(input->buffers.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_InputBuffer(TRITONBACKEND_Input* input, const std::uint32_t index,
                                              const void** buffer, std::uint64_t* buffer_byte_size,
                                              TRITONSERVER_MemoryType* memory_type,
                                              std::int64_t* memory_type_id) {
  Object::Check(input, "input", "InputBuffer");
  const auto& found = input->buffers.at(index);
  *buffer = found.base;
  *buffer_byte_size = found.bytes;
  *memory_type = found.memory;
  *memory_type_id = 0;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output* output, void** buffer,
                                               const std::uint64_t buffer_byte_size,
                                               TRITONSERVER_MemoryType* memory_type,
                                               std::int64_t* memory_type_id) {
  Object::Check(output, "output", "OutputBuffer");
  Demand(!output->allocated, "OutputBuffer: the output has a buffer already");
  auto* const allocator = output->request->allocator;
  TRITONSERVER_Error* const error =
      allocator->alloc(allocator, output->name.c_str(), buffer_byte_size, *memory_type,
                       *memory_type_id, output->request->allocator_userp, &output->buffer,
                       &output->buffer_userp, &output->memory, &output->memory_id);
  if (error != nullptr) return error;
  output->allocated = true;
  output->bytes = buffer_byte_size;
  *buffer = output->buffer;
  *memory_type = output->memory;
  *memory_type_id = output->memory_id;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestId(TRITONBACKEND_Request* request, const char** id) {
  const auto* asked = RequestOf(request, "RequestId");
  if (!asked->id_throws.empty()) throw std::runtime_error(asked->id_throws);
  *id = asked->id.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestIsCancelled(TRITONBACKEND_Request* request,
                                                     bool* is_cancelled) {
  *is_cancelled = RequestOf(request, "RequestIsCancelled")->cancelled;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_InferenceRequestTimeoutMicroseconds(
    TRITONBACKEND_Request* request, std::uint64_t* timeout) {
  *timeout = RequestOf(request, "InferenceRequestTimeoutMicroseconds")->timeout_us;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request* request,
                                                        std::uint32_t* count) {
  *count = static_cast<std::uint32_t>(RequestOf(request, "ParameterCount")->parameters.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestParameter(TRITONBACKEND_Request* request,
                                                   const std::uint32_t index, const char** key,
                                                   TRITONSERVER_ParameterType* type,
                                                   const void** vvalue) {
  const auto& [name, value] = RequestOf(request, "RequestParameter")->parameters.at(index);
  *key = name.c_str();
  if (const auto* text = std::get_if<std::string>(&value)) {
    *type = TRITONSERVER_PARAMETER_STRING;
    *vvalue = text->c_str();
  } else if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    *type = TRITONSERVER_PARAMETER_INT;
    *vvalue = integer;
  } else if (const auto* flag = std::get_if<bool>(&value)) {
    *type = TRITONSERVER_PARAMETER_BOOL;
    *vvalue = flag;
  } else {
    *type = TRITONSERVER_PARAMETER_DOUBLE;
    *vvalue = std::get_if<double>(&value);
  }
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request* request,
                                                    std::uint32_t* count) {
  *count = static_cast<std::uint32_t>(RequestOf(request, "RequestInputCount")->inputs.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request* request,
                                                      const std::uint32_t index,
                                                      TRITONBACKEND_Input** input) {
  *input = RequestOf(request, "RequestInputByIndex")->inputs.at(index).get();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request* request,
                                                     std::uint32_t* count) {
  *count = static_cast<std::uint32_t>(
      RequestOf(request, "RequestOutputCount")->requested_outputs.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request* request,
                                                    const std::uint32_t index,
                                                    const char** output_name) {
  *output_name = RequestOf(request, "RequestOutputName")->requested_outputs.at(index).c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request,
                                                 std::uint32_t release_flags) {
  auto* released = RequestOf(request, "RequestRelease");
  Demand(release_flags == TRITONSERVER_REQUEST_RELEASE_ALL, "RequestRelease: expected flag ALL");
  Demand(released->final_responses == 1, "RequestRelease: expected one final response, got " +
                                             std::to_string(released->final_responses));
  Demand(released->reports == 1, "RequestRelease: expected one report of statistics, got " +
                                     std::to_string(released->reports));
  FakeModel* const model = released->model;
  siglip::triton::ReleaseRequest(released);
  model->Released();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestTrace(TRITONBACKEND_Request* request,
                                               TRITONSERVER_InferenceTrace** trace) {
  RequestOf(request, "RequestTrace");
  *trace = nullptr;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseNew(TRITONBACKEND_Response** response,
                                              TRITONBACKEND_Request* request) {
  auto* made = new TRITONSERVER_InferenceResponse;
  made->request = RequestOf(request, "ResponseNew");
  made->allocator = made->request->allocator;
  *response = reinterpret_cast<TRITONBACKEND_Response*>(made);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response* response,
                                                 TRITONBACKEND_Output** output, const char* name,
                                                 const TRITONSERVER_DataType datatype,
                                                 const std::int64_t* shape,
                                                 const std::uint32_t dims_count) {
  auto* owner = ResponseOf(response, "ResponseOutput");
  auto made = std::make_unique<TRITONBACKEND_Output>();
  made->request = owner->request;
  made->name = name;
  made->type = datatype;
  made->shape.assign(shape, shape + dims_count);
  *output = made.get();
  owner->outputs.push_back(std::move(made));
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseSend(TRITONBACKEND_Response* response,
                                               const std::uint32_t send_flags,
                                               TRITONSERVER_Error* error) {
  std::unique_ptr<TRITONSERVER_InferenceResponse> sent(ResponseOf(response, "ResponseSend"));
  Object::Check(sent->request, "request", "ResponseSend after the release");
  Demand(sent->request->final_responses == 0, "ResponseSend after the final response");
  if (error != nullptr) {
    Object::Check(error, "error", "ResponseSend");
    sent->error.emplace(error->code, error->message);
  } else {
    for (const auto& output : sent->outputs) {
      Demand(output->allocated, "ResponseSend: output '" + output->name + "' has no buffer");
    }
  }
  siglip::triton::SendResponse(std::move(sent), send_flags);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendConfig(TRITONBACKEND_Backend* backend,
                                                TRITONSERVER_Message** backend_config) {
  Object::Check(backend, "backend", "BackendConfig");
  *backend_config = backend->config_message.get();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_BackendState(TRITONBACKEND_Backend* backend, void** state) {
  Object::Check(backend, "backend", "BackendState");
  *state = backend->state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_BackendSetState(TRITONBACKEND_Backend* backend, void* state) {
  Object::Check(backend, "backend", "BackendSetState");
  backend->state = state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute* backend_attributes, const TRITONSERVER_InstanceGroupKind kind,
    const std::uint64_t count, const std::uint64_t*, const std::uint64_t) {
  Object::Check(backend_attributes, "attribute", "AddPreferredInstanceGroup");
  Demand(kind == TRITONSERVER_INSTANCEGROUPKIND_CPU && count > 0, "preferred instance group");
  ++backend_attributes->groups;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelName(TRITONBACKEND_Model* model, const char** name) {
  Object::Check(model, "model", "ModelName");
  *name = model->name.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelVersion(TRITONBACKEND_Model* model, std::uint64_t* version) {
  Object::Check(model, "model", "ModelVersion");
  *version = 1;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelRepository(TRITONBACKEND_Model* model,
                                                  TRITONBACKEND_ArtifactType* artifact_type,
                                                  const char** location) {
  Object::Check(model, "model", "ModelRepository");
  *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  *location = model->directory.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelConfig(TRITONBACKEND_Model* model,
                                              const std::uint32_t config_version,
                                              TRITONSERVER_Message** model_config) {
  Object::Check(model, "model", "ModelConfig");
  Demand(config_version == 1, "ModelConfig: expected version 1");
  *model_config = new TRITONSERVER_Message(model->config.dump());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model* model,
                                                          bool* auto_complete_config) {
  Object::Check(model, "model", "ModelAutoCompleteConfig");
  *auto_complete_config = model->core->options().auto_complete_config;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelSetConfig(TRITONBACKEND_Model* model,
                                                 const std::uint32_t config_version,
                                                 TRITONSERVER_Message* model_config) {
  Object::Check(model, "model", "ModelSetConfig");
  Object::Check(model_config, "message", "ModelSetConfig");
  Demand(config_version == 1, "ModelSetConfig: expected version 1");
  Demand(model->initializing, "ModelSetConfig outside ModelInitialize");
  Demand(model->core->options().auto_complete_config, "ModelSetConfig without auto-completion");
  model->config = nlohmann::json::parse(model_config->json);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelServer(TRITONBACKEND_Model* model,
                                              TRITONSERVER_Server** server) {
  Object::Check(model, "model", "ModelServer");
  *server = reinterpret_cast<TRITONSERVER_Server*>(model->core);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelBackend(TRITONBACKEND_Model* model,
                                               TRITONBACKEND_Backend** backend) {
  Object::Check(model, "model", "ModelBackend");
  *backend = model->backend;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelState(TRITONBACKEND_Model* model, void** state) {
  Object::Check(model, "model", "ModelState");
  *state = model->state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelSetState(TRITONBACKEND_Model* model, void* state) {
  Object::Check(model, "model", "ModelSetState");
  model->state = state;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceName(TRITONBACKEND_ModelInstance* instance,
                                                    const char** name) {
  Object::Check(instance, "instance", "ModelInstanceName");
  *name = instance->name.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceKind(TRITONBACKEND_ModelInstance* instance,
                                                    TRITONSERVER_InstanceGroupKind* kind) {
  Object::Check(instance, "instance", "ModelInstanceKind");
  *kind = instance->kind;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance* instance,
                                                     TRITONBACKEND_Model** model) {
  Object::Check(instance, "instance", "ModelInstanceModel");
  *model = instance->model;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, const bool success,
    const std::uint64_t exec_start_ns, const std::uint64_t compute_start_ns,
    const std::uint64_t compute_end_ns, const std::uint64_t exec_end_ns) {
  Object::Check(instance, "instance", "ReportStatistics");
  DemandOrder(exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns);
  TRITONSERVER_InferenceRequest* const reported = RequestOf(request, "ReportStatistics");
  const std::string text = std::exchange(reported->report_throws, {});
  if (!text.empty()) throw std::runtime_error(text);
  ++reported->reports;
  instance->owner->Report(success);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance* instance, const std::uint64_t batch_size,
    const std::uint64_t exec_start_ns, const std::uint64_t compute_start_ns,
    const std::uint64_t compute_end_ns, const std::uint64_t exec_end_ns) {
  Object::Check(instance, "instance", "ReportBatchStatistics");
  DemandOrder(exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns);
  Demand(batch_size > 0, "ReportBatchStatistics of an empty batch");
  instance->owner->ReportBatch(batch_size);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ApiVersion(std::uint32_t* major, std::uint32_t* minor) {
  const std::lock_guard lock(Objects().mu);
  *major = 1;
  *minor = Objects().api_minor;
  return nullptr;
}

}  // extern "C"
