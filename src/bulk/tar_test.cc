#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "bulk/archive.h"

namespace siglip::bulk {
namespace {

// A ustar header. `size` is what it declares, as octal digits or raw bytes.
std::string Header(const std::string& name, const std::string& size, char type,
                   const std::string& link = "") {
  std::string block(512, '\0');
  block.replace(0, name.size(), name);
  block.replace(100, 7, "0000644");
  block.replace(124, size.size(), size);
  block.replace(136, 11, "00000000000");
  block[156] = type;
  block.replace(157, link.size(), link);
  block.replace(257, 8, std::string("ustar\00000", 8));
  block.replace(148, 8, 8, ' ');
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  std::array<char, 8> digits{};
  std::snprintf(digits.data(), digits.size(), "%06o", sum);
  block.replace(148, 7, std::string(digits.data(), 7));
  return block;
}

std::string Octal(std::size_t size) {
  std::array<char, 12> digits{};
  std::snprintf(digits.data(), digits.size(), "%011zo", size);
  return digits.data();
}

std::string Member(const std::string& name, const std::string& content, char type = '0',
                   const std::string& link = "") {
  std::string text = Header(name, Octal(content.size()), type, link) + content;
  text.resize((text.size() + 511) / 512 * 512, '\0');
  return text;
}

const std::string kEnd(1024, '\0');

class TarTest : public testing::Test {
 protected:
  TarTest() : path_(testing::TempDir() + "tar_test.tar") {}
  ~TarTest() override { std::filesystem::remove(path_); }

  // "name=content" or "name!" (refused) of each image; "!" at the end if the archive is damaged.
  std::vector<std::string> Read(const std::string& archive) {
    std::ofstream(path_, std::ios::binary) << archive;
    std::vector<std::string> images;
    auto tar = OpenTar(path_);
    if (!tar.ok()) return {"!"};
    while (true) {
      const auto found = (*tar)->Next();
      if (!found.ok()) {
        images.push_back("!");
        EXPECT_NE(found.status().message().find(path_), std::string::npos);
      }
      if (!found.ok() || !*found) return images;
      const auto bytes = (*tar)->Read();
      last_error_ = bytes.status();
      images.push_back((*tar)->name() + (bytes.ok() ? "=" + *bytes : "!"));
    }
  }

  using Images = std::vector<std::string>;
  const std::string path_;
  absl::Status last_error_;
};

TEST_F(TarTest, ImagesComeInOrderAndOtherMembersArePassedOver) {
  EXPECT_EQ(Read(Member("0.jpg", "A") + Member("0.txt", "caption") + Member("0.json", "{}") +
                 Member("d.jpg/", "", '5') + Member("d/1.PNG", "BB") + kEnd),
            (Images{"0.jpg=A", "d/1.PNG=BB"}));
}

TEST_F(TarTest, PathsAreOnlyNames) {
  EXPECT_EQ(Read(Member("../../etc/x.jpg", "A") + Member("/root/y.jpg", "B") + kEnd),
            (Images{"../../etc/x.jpg=A", "/root/y.jpg=B"}));
}

TEST_F(TarTest, NamesMayHoldAnyBytes) {
  EXPECT_EQ(Read(Member("\xc3\xa9.jpg", "A") + Member("\xff.jpg", "B") + kEnd),
            (Images{"\xc3\xa9.jpg=A", "\xff.jpg=B"}));
}

TEST_F(TarTest, LinksAndDevicesAreRefusedAlone) {
  EXPECT_EQ(Read(Member("a.jpg", "A") + Member("s.jpg", "", '2', "/etc/passwd") +
                 Member("h.jpg", "", '1', "a.jpg") + Member("p.jpg", "", '6') +
                 Member("b.jpg", "B") + kEnd),
            (Images{"a.jpg=A", "s.jpg!", "h.jpg!", "p.jpg!", "b.jpg=B"}));
}

TEST_F(TarTest, AHugeDeclaredSizeIsRefusedWithoutTheMemory) {
  EXPECT_EQ(Read(Header("a.jpg", "77777777777", '0') + "A")[0], "a.jpg!");
  EXPECT_EQ(last_error_.code(), absl::StatusCode::kResourceExhausted);
  // Just below the limit, and not there: what is read is what there is.
  EXPECT_EQ(Read(Header("a.jpg", Octal(kMaxImageBytes), '0') + "A")[0], "a.jpg!");
}

TEST_F(TarTest, ASparseMemberIsRefusedAlone) {
  // GNU sparse: the real size, 256 KiB of holes, is at 483; the map at 386 is empty.
  std::string header = Header("a.jpg", Octal(0), 'S');
  header.replace(257, 8, std::string("ustar  \0", 8));
  header.replace(386, 24, std::string("00000000000\00000000000000\0", 24));
  header.replace(483, 11, "00001000000");
  header.replace(148, 8, 8, ' ');
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  std::array<char, 8> digits{};
  std::snprintf(digits.data(), digits.size(), "%06o", sum);
  header.replace(148, 7, std::string(digits.data(), 7));
  EXPECT_EQ(Read(header + Member("b.jpg", "B") + kEnd), (Images{"a.jpg!", "b.jpg=B"}));
}

TEST_F(TarTest, ACutArchiveGivesWhatIsWholeAndAnError) {
  const std::string whole = Member("a.jpg", "A") + Member("b.jpg", std::string(2000, 'B')) + kEnd;
  EXPECT_EQ(Read(whole.substr(0, 512 + 512 + 512 + 700)), (Images{"a.jpg=A", "b.jpg!", "!"}));
  EXPECT_EQ(Read(whole.substr(0, 512 + 512 + 100)), (Images{"a.jpg=A", "!"}));
}

// Cut inside a member that is passed over, beyond what libarchive has read: skipped, not read.
TEST_F(TarTest, ACutMemberThatIsPassedOverIsAnError) {
  const std::string whole =
      Member("a.jpg", "A") + Member("a.txt", std::string(3'000'000, 'T')) + Member("b.jpg", "B");
  EXPECT_EQ(Read(whole.substr(0, 2'000'000)), (Images{"a.jpg=A", "!"}));
  EXPECT_EQ(Read(whole.substr(0, 1536 + 3'000'000)), (Images{"a.jpg=A", "!"}));  // in the padding
}

TEST_F(TarTest, AnArchiveWithoutItsEndIsWholeAndMayBeCutSoItWarns) {
  const std::string members = Member("a.jpg", "A") + Member("b.jpg", "B");
  const Images both{"a.jpg=A", "b.jpg=B"};
  testing::internal::CaptureStderr();
  EXPECT_EQ(Read(members + kEnd), both);
  EXPECT_EQ(Read(members + kEnd + kEnd + kEnd), both);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  for (const std::size_t end_bytes : {0, 512}) {
    testing::internal::CaptureStderr();
    EXPECT_EQ(Read(members + kEnd.substr(0, end_bytes)), both);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_NE(log.find(path_ + " ends after 2 members without"), std::string::npos) << log;
  }
}

TEST_F(TarTest, WhatFollowsTheEndIsNotReadButTold) {
  const std::string a = Member("a.jpg", "A"), b = Member("b.jpg", "B");
  for (const std::string& archive : {a + kEnd + b + kEnd, a + kEnd + std::string(300'000, '\0') + b,
                                     a + std::string(512, '\0') + b + kEnd}) {
    testing::internal::CaptureStderr();
    EXPECT_EQ(Read(archive), (Images{"a.jpg=A"}));
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_NE(log.find(path_ + " goes on after its end mark, behind 1 members"), std::string::npos)
        << log;
  }
}

TEST_F(TarTest, WhatIsNoTarIsRefused) {
  EXPECT_EQ(Read("not a tar"), (Images{"!"}));
  EXPECT_EQ(Read(""), (Images{"!"}));
  EXPECT_EQ(OpenTar("/nonexistent.tar").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TarTest, ADamagedHeaderIsToldAndTheRestIsRead) {
  std::string archive = Member("a.jpg", "A") + Member("b.jpg", "B") + Member("c.jpg", "C") + kEnd;
  archive[1024 + 3] ^= 1;  // the second header's name no longer has its checksum
  EXPECT_EQ(Read(archive), (Images{"a.jpg=A", "c.jpg=C", "!"}));
}

}  // namespace
}  // namespace siglip::bulk
