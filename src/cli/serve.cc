// `siglip serve`: puts repository, deployments, service and doors together, and drains on SIGTERM.

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/model_repository.h"
#include "cli/report.h"
#include "deployments/built_in_configs.h"
#include "deployments/factory.h"
#include "protocol/model_config.h"
#include "server/server.h"
#include "server/shutdown.h"
#include "serving/service_impl.h"

namespace siglip::cli {
namespace {

struct ServeFlags {
  ModelFlags model;
  std::vector<std::string> repositories;
  bool dry_run = false;
  bool exit_on_error = true;
  std::int64_t exit_timeout_s = 30;
  ServerOptions server;
  ServiceOptions service;
};

absl::StatusOr<std::vector<ModelConfig>> ReadConfigs(const ServeFlags& flags) {
  std::vector<ModelConfig> configs;
  if (flags.repositories.empty()) {
    for (const BuiltInConfig& built_in : BuiltInConfigs()) {
      SIGLIP_ASSIGN_OR_RETURN(
          ModelConfig config,
          ParseModelConfig(built_in.text, absl::StrCat("built-in ", std::string(built_in.name))));
      config.source = "built-in";
      config.versions = {1};
      configs.push_back(std::move(config));
    }
    return configs;
  }
  for (const std::string& repository : flags.repositories) {
    SIGLIP_ASSIGN_OR_RETURN(std::vector<ModelConfig> read, ReadModelRepository(repository));
    configs.insert(configs.end(), std::make_move_iterator(read.begin()),
                   std::make_move_iterator(read.end()));
  }
  return configs;
}

std::string DimsText(const std::vector<TensorConfig>& tensors) {
  std::vector<std::string> parts;
  for (const TensorConfig& tensor : tensors) {
    parts.push_back(absl::StrCat(tensor.name, " ", std::string(DataTypeName(tensor.datatype)), " [",
                                 absl::StrJoin(tensor.dims, ","), "]"));
  }
  return absl::StrJoin(parts, ", ");
}

// What --dry-run shows: the models as they will be served.
absl::Status PrintPlan(const ServiceImpl& service, const DeploymentsFactory& factory,
                       const ServerOptions& server) {
  for (const std::string& line : factory.DescribeModels()) std::printf("%s\n", line.c_str());
  for (const IndexRow& row : service.RepositoryIndex(false)) {
    SIGLIP_ASSIGN_OR_RETURN(const std::shared_ptr<const ModelConfig> config,
                            service.GetModelConfig(row.name, row.version));
    std::printf("%-22s v%-3s %-5s %s -> %s; max batch %d", row.name.c_str(), row.version.c_str(),
                row.state.c_str(), DimsText(config->inputs).c_str(),
                DimsText(config->outputs).c_str(), config->max_batch_size);
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
  std::printf("would listen on http %s:%d, grpc %s:%d, metrics %s:%d\n",
              server.http_address.c_str(), server.http_port, server.grpc_address.c_str(),
              server.grpc_port, server.metrics_address.c_str(), server.metrics_port);
  return absl::OkStatus();
}

absl::Status RunUntilSignal(ServeFlags& flags, ServiceImpl& service, ShutdownSignals& signals) {
  flags.server.exit_timeout = std::chrono::seconds(flags.exit_timeout_s);
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                          Server::Start(service, flags.server));
  SIGLIP_LOG_INFO("{}", ListeningLine(flags.server, server->ports()));
  const int signal = signals.WaitForFirst();
  SIGLIP_LOG_INFO("draining signal={} inflight={}", signal, service.inflight_requests());
  service.BeginDrain();
  const bool finished = server->Drain(flags.server.exit_timeout);
  if (!finished) {
    return absl::DeadlineExceededError(
        absl::StrCat("accepted requests were not finished within ", flags.exit_timeout_s, " s"));
  }
  SIGLIP_LOG_INFO("drained: every accepted request was answered");
  return absl::OkStatus();
}

absl::Status ServeAll(ServeFlags& flags) {
  if (flags.model.directory.empty() && flags.repositories.empty()) {
    return absl::InvalidArgumentError(
        "nothing to serve: give --model DIR, --model-repository DIR, or both");
  }
  // Before any thread, so that all of them have the signals blocked.
  ShutdownSignals signals;
  const SystemClock clock;
  SIGLIP_ASSIGN_OR_RETURN(std::vector<ModelConfig> configs, ReadConfigs(flags));
  DeploymentsFactory factory(
      {.model_override = flags.model.directory, .model = flags.model.options});
  flags.service.exit_on_error = flags.exit_on_error;
  flags.service.server_version = SIGLIP_VERSION;
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<ServiceImpl> service,
                          ServiceImpl::Load(std::move(configs), factory, clock, flags.service));
  if (flags.dry_run) return PrintPlan(*service, factory, flags.server);
  return RunUntilSignal(flags, *service, signals);
}

void AddDoorFlags(CLI::App& command, ServerOptions& server) {
  command.add_option("--allow-http", server.allow_http, "Open the HTTP door")
      ->capture_default_str();
  command.add_option("--http-address", server.http_address)->capture_default_str();
  command.add_option("--http-port", server.http_port, "0 = any free port")->capture_default_str();
  command.add_option("--http-thread-count", server.http_thread_count)
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--http-max-input-size", server.http_max_input_bytes,
                  "Bytes of a request's body, also after decompression")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--http-max-connections", server.http_max_connections)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--allow-grpc", server.allow_grpc, "Open the gRPC door")
      ->capture_default_str();
  command.add_option("--grpc-address", server.grpc_address)->capture_default_str();
  command.add_option("--grpc-port", server.grpc_port, "0 = any free port")->capture_default_str();
  command
      .add_option("--grpc-max-input-size", server.grpc_max_input_bytes, "Bytes of a gRPC message")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--allow-metrics", server.allow_metrics, "Open the metrics door")
      ->capture_default_str();
  command.add_option("--metrics-address", server.metrics_address)->capture_default_str();
  command.add_option("--metrics-port", server.metrics_port, "0 = any free port")
      ->capture_default_str();
}

}  // namespace

void AddServeCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand(
      "serve",
      "Serve embeddings over Triton's HTTP and gRPC protocol, with metrics for Prometheus");
  AddModelFlags(*command, flags->model, false);
  command
      ->add_option(
          "--model-repository,--model-store", flags->repositories,
          "Folder of models with config.pbtxt; repeatable. Without it the six deployments are "
          "built in. --model overrides every checkpoint that the files name")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_flag("--dry-run", flags->dry_run, "Load and check everything, print the plan, exit");
  AddDoorFlags(*command, flags->server);
  command
      ->add_option("--max-inflight-requests", flags->service.max_inflight_requests,
                   "Requests accepted and not yet answered; more are refused with 503")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--max-decode-bytes", flags->service.max_running_cost_bytes,
                   "Memory for images being decoded at a time; a larger one runs alone")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--exit-on-error", flags->exit_on_error,
                   "End when a model does not load; if false the others are served")
      ->capture_default_str();
  command
      ->add_option("--exit-timeout-secs", flags->exit_timeout_s,
                   "After SIGTERM, how long accepted requests may take")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
  command->footer(
      "SIGTERM or Ctrl-C drains: readiness turns false, accepted requests are finished, exit code "
      "0. "
      "A second signal ends at once.");
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = ServeAll(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
