// `siglip serve`: puts repository, deployments, service and doors together, and drains on SIGTERM.

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/model_repository.h"
#include "cli/picture_index.h"
#include "cli/report.h"
#include "cli/serve_flags.h"
#include "deployments/factory.h"
#include "server/server.h"
#include "server/shutdown.h"
#include "serving/service_impl.h"
#include "workers/decode_workers.h"

namespace siglip::cli {
namespace {

absl::StatusOr<std::unique_ptr<ModelRepository>> OpenRepository(const ServeFlags& flags) {
  if (flags.repositories.empty()) return BuiltInRepository(flags.model.directory);
  return FolderRepository::Open(flags.repositories, flags.config_name);
}

std::string DimsText(const std::vector<TensorConfig>& tensors) {
  std::vector<std::string> parts;
  for (const TensorConfig& tensor : tensors) {
    parts.push_back(absl::StrCat(tensor.name, " ", std::string(DataTypeName(tensor.datatype)), " [",
                                 absl::StrJoin(tensor.dims, ","), "]"));
  }
  return absl::StrJoin(parts, ", ");
}

// How a deployment makes pixels; nothing if it makes none. NaFlex: PIXEL_VALUES are [N,p*p*3], and
// SPATIAL_SHAPES beside them.
std::optional<bulk::PixelSettings> PixelsOf(const ModelConfig& config) {
  if (config.parameter("step") != "image_process") return std::nullopt;
  bulk::PixelSettings pixels;
  if (!absl::SimpleAtoi(config.parameter("pillow"), &pixels.pillow)) return std::nullopt;
  if (config.outputs.size() == 2) pixels.max_patches = config.outputs[0].dims[0];
  return pixels;
}

// What --dry-run shows: the models as they will be served.
absl::Status PrintPlan(const ServiceImpl& service, const DeploymentsFactory& factory,
                       const ServerOptions& server, const SearchIndex* index) {
  for (const std::string& line : factory.DescribeModels()) std::printf("%s\n", line.c_str());
  for (const IndexRow& row : service.RepositoryIndex(false)) {
    if (row.state != "READY") {
      std::printf("%-22s %s %s\n", Printable(row.name).c_str(), row.state.c_str(),
                  Printable(row.reason).c_str());
      continue;
    }
    SIGLIP_ASSIGN_OR_RETURN(const std::shared_ptr<const ModelConfig> config,
                            service.GetModelConfig(row.name, row.version));
    std::printf("%-22s v%-3s %-5s %s -> %s; max batch %d", Printable(row.name).c_str(),
                row.version.c_str(), row.state.c_str(), DimsText(config->inputs).c_str(),
                DimsText(config->outputs).c_str(), config->max_batch_size);
    if (const auto pixels = PixelsOf(*config)) {
      std::printf("; pixels of Pillow %lld", static_cast<long long>(pixels->pillow));
    }
    if (config->response_cache) std::printf("; answers are cached");
    if (config->is_ensemble()) {
      std::printf("; ensemble of %zu steps", config->ensemble_steps.size());
    }
    for (const InstanceGroup& group : config->instance_groups) {
      std::printf("; %d instance(s)", group.count);
    }
    if (config->dynamic_batching) {
      std::printf("; batches of %s, delay %llu us",
                  absl::StrJoin(config->dynamic_batching->preferred_batch_sizes, "/").c_str(),
                  static_cast<unsigned long long>(config->dynamic_batching->max_queue_delay_us));
    }
    std::printf("\n");
  }
  if (index != nullptr) {
    std::printf("%lld pictures to search\n", static_cast<long long>(index->rows()));
  }
  std::vector<std::string> doors;
  const auto add = [&doors](const char* door, const std::string& address, std::uint16_t port) {
    doors.push_back(absl::StrCat(door, " ", JoinHostPort(address, port)));
  };
  if (server.allow_http) add("http", server.http_address, server.http_port);
  if (server.allow_grpc) add("grpc", server.grpc_address, server.grpc_port);
  if (server.allow_metrics) add("metrics", server.metrics_address, server.metrics_port);
  std::printf("would listen on %s\n", absl::StrJoin(doors, ", ").c_str());
  return absl::OkStatus();
}

// Null: pictures are decoded in this process.
absl::StatusOr<std::unique_ptr<DecodeWorkers>> StartDecodeWorkers(const ServeFlags& flags) {
  if (flags.decode_workers == "off") return nullptr;
  DecodeWorkersOptions options;
  options.picture_timeout = std::chrono::seconds(flags.decode_timeout_s);
  const bool chosen = absl::SimpleAtoi(flags.decode_workers, &options.count);
  if (!chosen) {
    options.count = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  absl::StatusOr<std::unique_ptr<DecodeWorkers>> workers = DecodeWorkers::Start(options);
  if (workers.ok() || chosen) return workers;
  SIGLIP_LOG_WARN("decode_workers_off: pictures are decoded in the server, reason=\"{}\"",
                  LogSafe(std::string(workers.status().message())));
  return nullptr;
}

// What the page can search; null without --search-index. It must have been made by the checkpoint
// that is served, as far as that is known.
absl::StatusOr<std::unique_ptr<PictureIndex>> OpenIndex(const ServeFlags& flags,
                                                        const DeploymentsFactory& factory,
                                                        const ServiceImpl& service) {
  if (flags.search_index.empty()) return nullptr;
  SIGLIP_ASSIGN_OR_RETURN(
      std::unique_ptr<PictureIndex> index,
      PictureIndex::Open(flags.search_index, {.root = flags.search_root,
                                              .num_threads = flags.model.options.num_threads,
                                              .ef = flags.search_ef}));
  const auto door = service.GetModelConfig("embed_image", "");
  const std::string checkpoint = door.ok() ? factory.FolderOf(**door) : flags.model.directory;
  if (!checkpoint.empty()) SIGLIP_RETURN_IF_ERROR(index->CheckCheckpoint(checkpoint));
  for (const IndexRow& row : service.RepositoryIndex(true)) {
    const auto config = service.GetModelConfig(row.name, row.version);
    if (!config.ok()) continue;
    if (const auto pixels = PixelsOf(**config)) index->WarnOfOtherPixels(*pixels);
  }
  if (door.ok() && (*door)->outputs[0].dims != std::vector<std::int64_t>{index->width()}) {
    return absl::InvalidArgumentError(absl::StrCat(
        flags.search_index, ": expected rows of ", absl::StrJoin((*door)->outputs[0].dims, ","),
        " numbers, as embed_image gives, got ", index->width()));
  }
  return index;
}

// Memory that runs out is no reason to end.
absl::Status Reload(Server& server) {
  try {
    return server.Reload();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
}

absl::Status RunUntilSignal(const ServeFlags& flags, std::unique_ptr<Server> server,
                            ServiceImpl& service, const SearchIndex* index,
                            ShutdownSignals& signals) {
  signals.BeginServing();
  SIGLIP_RETURN_IF_ERROR(server->Open(service, index));
  SIGLIP_LOG_INFO("{}", ListeningLine(flags.server, server->ports()));
  const int signal = signals.WaitForFirst([&server] {
    const absl::Status reloaded = Reload(*server);
    if (reloaded.ok()) {
      SIGLIP_LOG_INFO("files_reloaded what=certificates,api_keys");
    } else {
      SIGLIP_LOG_ERROR("files_not_reloaded reason=\"{}\"",
                       LogSafe(std::string(reloaded.message())));
    }
  });
  if (flags.drain_delay_s > 0) {
    SIGLIP_LOG_INFO("leaving signal={} drain_delay_s={}", signal, flags.drain_delay_s);
    server->Leave();
    std::this_thread::sleep_for(std::chrono::seconds(flags.drain_delay_s));
  }
  SIGLIP_LOG_INFO("draining signal={} inflight={}", signal, service.InflightRequests());
  service.BeginDrain();
  if (!server->Drain(flags.server.exit_timeout)) {
    // The doors and the models would wait for what is left, a batch's delay or a whole checkpoint.
    std::_Exit(Fail(absl::DeadlineExceededError(
        absl::StrCat("accepted requests were not finished within ", flags.exit_timeout_s, " s"))));
  }
  SIGLIP_LOG_INFO("drained: every accepted request was answered");
  if (signal == 0) return absl::InternalError("a model's device is lost (see model_lost above)");
  return absl::OkStatus();
}

// What --log-level says stays the floor; the switches take lines away or add them.
absl::Status SetUpLog(const ServeFlags& flags) {
  LogSettings settings = CurrentLog();
  settings.info = settings.info && flags.log.info;
  settings.warning = settings.warning && flags.log.warning;
  settings.error = settings.error && flags.log.error;
  settings.verbose_level = std::max(settings.verbose_level, flags.log.verbose_level);
  settings.iso8601 = flags.log.iso8601;
  settings.file = flags.log_file;
  if (!ChangeLog(settings)) {
    return absl::InvalidArgumentError(
        absl::StrCat("log file '", flags.log_file, "': cannot be opened for writing"));
  }
  for (const std::string& option : flags.ignored) {
    SIGLIP_LOG_WARN("option_without_effect name={}", option);
  }
  return absl::OkStatus();
}

// Every connection is a descriptor, and the shells' limit of 1024 is for programs that use select.
void RaiseDescriptorLimit(std::size_t http_connections) {
  // Of gRPC's connections, files and the like.
  constexpr std::size_t kOthers = 1024;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < http_connections + kOthers) {
    SIGLIP_LOG_WARN("few_descriptors limit={} http_max_connections={}", limit.rlim_cur,
                    http_connections);
  }
}

absl::Status ServeAll(ServeFlags& flags) {
  flags.server.http_tls.enabled |= flags.server.http_tls.mutual;
  flags.server.grpc_tls.enabled |= flags.server.grpc_tls.mutual;
  flags.server.exit_timeout = std::chrono::seconds(flags.exit_timeout_s);
  flags.server.image_url_timeout = std::chrono::seconds(flags.image_url_timeout_s);
  if (flags.model.directory.empty() && flags.repositories.empty()) {
    return Usage(absl::InvalidArgumentError(
        "nothing to serve: give --model DIR, --model-repository DIR, or both"));
  }
  SIGLIP_ASSIGN_OR_RETURN(flags.service.cache_bytes, Usage(ParseCacheConfig(flags.cache_config)));
  SIGLIP_RETURN_IF_ERROR(SetUpLog(flags));
  RaiseDescriptorLimit(flags.server.http_max_connections);
  // Before any thread, so that all of them have the signals blocked.
  ShutdownSignals signals;
  const SystemClock clock;
  SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<ModelRepository> repository, OpenRepository(flags));
  // Before the checkpoints are loaded and the certificates read.
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<DecodeWorkers> workers, StartDecodeWorkers(flags));
  SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Usage(Server::Create(flags.server)));
  // A plan may be looked at beside the server that it is for.
  if (!flags.dry_run) SIGLIP_RETURN_IF_ERROR(server->CheckPorts());
  DeploymentsFactory factory({.model_override = flags.model.directory,
                              .model = flags.model.options,
                              .decode_workers = workers.get()});
  flags.service.poll_interval = std::chrono::seconds(flags.poll_s);
  flags.service.on_lost = [&signals](const absl::Status&) { signals.Wake(); };
  flags.service.server_version = SIGLIP_VERSION;
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<ServiceImpl> service,
                          ServiceImpl::Open(std::move(repository), factory, clock, flags.service));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<PictureIndex> index,
                          OpenIndex(flags, factory, *service));
  if (flags.dry_run) return PrintPlan(*service, factory, flags.server, index.get());
  return RunUntilSignal(flags, std::move(server), *service, index.get(), signals);
}

}  // namespace

void AddServeCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand(
      "serve",
      "Serve embeddings over Triton's HTTP and gRPC protocol, with metrics for Prometheus");
  AddServeFlags(*command, *flags);
  command->footer(
      "SIGTERM or Ctrl-C drains: readiness turns false, accepted requests are finished, exit code "
      "0. A second signal ends at once.\n\n" +
      IgnoredOptions());
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = ServeAll(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
