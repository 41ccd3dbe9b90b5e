#include "cli/model_flags.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/help_format.h"
#include "engine/cuda/device_flag.h"
#include "image/preprocess.h"
#include "kernels/target.h"

namespace siglip::cli {
namespace {

std::string DeviceError(const std::string& text) {
  return std::string(ParseDevice(text).status().message());
}

std::string IsaError(const std::string& text) {
  const std::vector<std::string> here = KernelTargets();
  if (text == "auto" || std::find(here.begin(), here.end(), text) != here.end()) return {};
  return absl::StrCat("expected auto or one of ", absl::StrJoin(here, ", "),
                      " on this machine, got ", text);
}

}  // namespace

CLI::Validator PrecisionNames() {
  return CLI::IsMember({"auto", "fp32", "int16", "int8", "bf16", "fp16", "fp8"});
}

void AddCheckpointFlag(CLI::App& command, ModelFlags& flags, bool required) {
  BeginGroup(command, kModelHeading);
  command.add_option("--model", flags.directory, "Checkpoint: a Hugging Face snapshot folder")
      ->type_name("DIR")
      ->required(required);
}

void AddEngineFlags(CLI::App& command, ModelFlags& flags) {
  BeginGroup(command, kComputingHeading);
  command
      .add_option("--device", flags.options.device,
                  "auto (a GPU if there is one), cpu, cuda, or cuda:N[,N...]")
      ->check(DeviceError, "")
      ->type_name("DEVICE")
      ->capture_default_str();
  command
      .add_option(
          "--precision", flags.options.precision,
          "On a CPU fp32, int16 (faster; 1 - cosine to fp32 about 1e-7 with usual weights), int8 "
          "(faster still and coarser: look at `siglip validate`; needs VNNI or AMX) or bf16 (needs "
          "AMX); on a GPU bf16, fp16 or fp8. auto: bf16 on a GPU; on a CPU int16 where it is "
          "faster and within 1e-5 with this checkpoint, which is checked at load, else fp32")
      ->check(PrecisionNames())
      ->capture_default_str();
  command.add_option("--threads", flags.options.num_threads, "Engine threads; 0 = one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command
      .add_option("--engine-batch-size", flags.options.max_batch_size,
                  "Items per pass through a tower; sizes the scratch memory")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_flag("--gpu-resize", flags.options.gpu_resize,
                   "A GPU that encodes resizes pictures too, to the same pixels; decoding stays on "
                   "the CPU");
  command
      .add_option("--isa", flags.options.isa,
                  "Instruction set of the kernels: auto, or one of those that --version names")
      ->check(IsaError, "")
      ->type_name("NAME")
      ->capture_default_str();
  command
      .add_option("--cache-dir", flags.options.cache_dir,
                  "Folder that keeps packed weights: the next start maps them and packs nothing")
      ->type_name("DIR");
  BeginGroup(command, kPicturesHeading);
  command
      .add_option("--pillow", flags.options.pillow,
                  "Whose resize is reproduced: Pillow 13, or 12 and older (tall pictures differ)")
      ->check(CLI::IsMember({12, 13}))
      ->capture_default_str();
  // What decoders are bounded by stays: the limit is moved downwards alone.
  command
      .add_option("--max-pixels", flags.options.max_pixels,
                  "Width x height of an image at most; larger ones are refused from their head")
      ->check(CLI::Range(std::int64_t{1}, kPillowMaxPixels))
      ->default_str(absl::StrCat(kPillowMaxPixels, ", Pillow's limit"));
  command
      .add_option("--max-patches", flags.options.max_patches,
                  "NaFlex checkpoints: patches that an image is shown in at most; 0 = what the "
                  "checkpoint says, usually 256. More is sharper and slower")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
}

void AddModelFlags(CLI::App& command, ModelFlags& flags, bool required) {
  AddCheckpointFlag(command, flags, required);
  AddEngineFlags(command, flags);
}

}  // namespace siglip::cli
