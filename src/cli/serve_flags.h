#pragma once

// The options of `siglip serve`: Triton's names and defaults where Triton has the option.

#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/log_settings.h"
#include "cli/model_flags.h"
#include "cli/picture_index.h"
#include "server/options.h"
#include "serving/options.h"

namespace siglip::cli {

struct ServeFlags {
  ModelFlags model;
  std::vector<std::string> repositories;
  std::string config_name;  // --model-config-name
  bool dry_run = false;
  std::int64_t drain_delay_s = 0;
  std::int64_t exit_timeout_s = 30;
  std::int64_t poll_s = 15;
  std::int64_t image_url_timeout_s = 10;
  LogSettings log;
  std::string log_file;
  std::string search_index;  // --search-index
  std::string search_root = ".";
  std::int64_t search_ef = PictureIndexOptions::kDefaultEf;
  ServerOptions server;
  ServiceOptions service;
  std::vector<std::string> cache_config;  // --cache-config
  std::string decode_workers = "auto";    // --decode-workers
  std::int64_t decode_timeout_s = 60;     // --decode-timeout-secs
  std::vector<std::string> ignored;       // options that were given and mean nothing here
};

void AddServeFlags(CLI::App& command, ServeFlags& flags);
// One sentence on those that are not shown among the others.
std::string IgnoredOptions();

}  // namespace siglip::cli
