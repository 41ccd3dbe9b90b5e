// `siglip sample-imagenet`: the small validation set of the published table, from a full ImageNet.

#include <iostream>
#include <memory>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/report.h"
#include "eval/imagenet_sample.h"

namespace siglip::cli {
namespace {

int Sample(const SampleOptions& options) {
  const auto result = SampleImagenet(options);
  if (!result.ok()) return Fail(result.status());
  std::cout << options.output << ": " << result->classes << " classes, " << result->train
            << " train and " << result->valid << " valid images, seed " << options.seed << '\n';
  for (const std::string& line : result->lacking)
    std::cerr << "too few: " << Printable(line) << '\n';
  return result->lacking.empty() ? kSuccess : kSomeFailed;
}

}  // namespace

void AddSampleImagenetCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<SampleOptions>();
  CLI::App* command = app.add_subcommand(
      "sample-imagenet", "Pick some images per class from ImageNet's training set, for validate");
  command
      ->add_option(
          "source", options->source,
          "ImageNet: a folder with ILSVRC/Data/CLS-LOC/train/, train/ or the classes in it")
      ->required();
  command->add_option("output", options->output, "New folder in the layout that validate reads")
      ->required();
  command
      ->add_option("--mapping", options->mapping,
                   "LOC_synset_mapping.txt; default: the one in SOURCE")
      ->type_name("FILE");
  command->add_option("--train", options->train_per_class, "Images per class in train/")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--valid", options->valid_per_class, "Images per class in valid/")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "The same seed picks the same images everywhere")
      ->capture_default_str();
  command->add_flag("--copy", options->copy, "Copy the images instead of linking to them");
  command->footer("Exit code 3: done, but some classes have too few images.");
  command->callback([options, &run] { run = [options] { return Sample(*options); }; });
}

}  // namespace siglip::cli
