#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/file_map.h"
#include "cli/validation_report.h"

namespace siglip::cli {
namespace {

// Classes of the heat map: more would be too small to read.
constexpr std::size_t kHeatClasses = 16;
constexpr std::size_t kListed = 12;
constexpr std::size_t kSamples = 12;
// A sample picture is put into the page as it is; larger ones would make the page slow.
constexpr std::uint64_t kMaxPictureBytes = 400'000;
constexpr int kHistogramBins = 10;

constexpr const char* kStyle = R"(
:root{--ink:#1c2733;--soft:#5b6b7b;--line:#dde4ea;--one:#2563a8;--five:#9cc3e6;--bad:#c2452d;--good:#2c7a4b}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,"Segoe UI",Roboto,sans-serif;color:var(--ink);max-width:1060px;margin:0 auto;
padding:32px 24px 64px;background:#fff}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:40px 0 10px}
p{margin:4px 0}.soft{color:var(--soft);font-size:13px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:12px}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
ul{margin:6px 0;padding-left:20px}
.two{display:grid;grid-template-columns:1fr 1fr;gap:32px}.plots{display:grid;
grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:18px;align-items:end}
figure{margin:0}figcaption{font-size:12px;color:var(--soft);margin-bottom:4px}
svg{display:block;width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--ink)}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:14px}
.sample{border:1px solid var(--line);border-radius:8px;padding:10px;font-size:13px}
.sample img{width:100%;height:130px;object-fit:contain;background:#f3f6f9;border-radius:4px}
.ok{color:var(--good)}.no{color:var(--bad)}
@media(max-width:760px){.two{grid-template-columns:1fr}}
)";

// Also for attribute values in double quotes.
std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string Shorten(const std::string& text, std::size_t limit) {
  if (text.size() <= limit) return text;
  std::size_t end = limit;
  // Not inside a UTF-8 sequence.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

class Page {
 public:
  explicit Page(const Validation& validation)
      : validation_(validation), summary_(SummaryRow(validation)) {}

  std::string Html() {
    Add("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width\">"
        "<title>SigLIP validation</title><style>",
        kStyle, "</style>\n");
    Head();
    Table();
    Bars();
    Histograms();
    HeatMap();
    Lists();
    Samples();
    Failures();
    Add("</html>\n");
    return std::move(html_);
  }

 private:
  template <class... Parts>
  void Add(const Parts&... parts) {
    absl::StrAppend(&html_, parts...);
  }

  const ImagenetClass& Class(int index) const {
    return validation_.folder.classes[static_cast<std::size_t>(index)];
  }
  std::string Name(int index, std::size_t limit = 60) const {
    return absl::StrCat("<span title=\"", Escape(Class(index).label), "\">",
                        Escape(Shorten(Class(index).text, limit)), "</span>");
  }
  std::string SummaryName() const {
    return Escape(summary_.text_template.empty()
                      ? summary_.name
                      : absl::StrCat(summary_.name, ", \"", summary_.text_template, "\""));
  }

  void Head() {
    Add("<h1>SigLIP validation</h1><p>", validation_.valid.images.size(), " images of ",
        validation_.folder.classes.size(), " classes, ", validation_.train.images.size(),
        " training images</p><p class=\"soft\">", Escape(validation_.embedder),
        "<br>data: ", Escape(validation_.folder.directory), "</p>\n");
    if (validation_.remarks.empty()) return;
    Add("<ul class=\"soft\">");
    for (const std::string& remark : validation_.remarks) Add("<li>", Escape(remark), "</li>");
    Add("</ul>\n");
  }

  void Table() {
    Add("<h2>Accuracy</h2><table><tr><th>Row<th class=\"n\">Top-1<th class=\"n\">Top-5"
        "<th>Prompt template</tr>");
    for (const ValidationRow& row : validation_.rows) {
      Add("<tr><td>", Escape(row.name),
          absl::StrFormat("<td class=\"n\">%.4f<td class=\"n\">%.4f<td>", row.top1(), row.top5()),
          Escape(row.text_template), "</tr>\n");
    }
    Add("</table>\n");
  }

  // Two horizontal bars per row of the table.
  void Bars() {
    constexpr int kLeft = 330, kWidth = 600, kStep = 46;
    const int height = kStep * static_cast<int>(validation_.rows.size()) + 24;
    Add("<figure style=\"margin-top:22px\"><figcaption>Share of images whose class is the first "
        "(dark) or among the first five (light)</figcaption>",
        absl::StrFormat("<svg viewBox=\"0 0 1000 %d\">", height));
    for (int tenth = 0; tenth <= 10; tenth += 2) {
      const int x = kLeft + kWidth * tenth / 10;
      Add(
          absl::StrFormat("<line x1=\"%d\" x2=\"%d\" y1=\"0\" y2=\"%d\" stroke=\"#dde4ea\"/>"
                          "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%.1f</text>",
                          x, x, height - 20, x, height - 5, tenth / 10.0));
    }
    int y = 4;
    for (const ValidationRow& row : validation_.rows) {
      Add(absl::StrFormat(
          "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" font-weight=\"600\">%s</text>", kLeft - 12,
          y + 14, Escape(row.name)));
      Add(absl::StrFormat(
          "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" style=\"fill:#5b6b7b\">%s</text>",
          kLeft - 12, y + 30, Escape(Shorten(row.text_template, 50))));
      Bar(kLeft, y, kWidth * row.top1(), "#2563a8", row.top1());
      Bar(kLeft, y + 18, kWidth * row.top5(), "#9cc3e6", row.top5());
      y += kStep;
    }
    Add("</svg></figure>\n");
  }
  void Bar(int x, int y, double width, const char* color, double value) {
    Add(
        absl::StrFormat("<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"16\" fill=\"%s\"/>"
                        "<text x=\"%.1f\" y=\"%d\">%.4f</text>",
                        x, y, width, color, x + width + 6, y + 12, value));
  }

  void Histograms() {
    Add("<h2>Classes by their top-1 accuracy</h2><div class=\"plots\">");
    for (const ValidationRow& row : validation_.rows) Histogram(row);
    Add("</div>\n");
  }
  void Histogram(const ValidationRow& row) {
    constexpr int kBarStep = 24, kHeight = 110;
    std::array<int, kHistogramBins> bins{};
    for (const ClassAccuracy& c : row.confusion.PerClass()) {
      // 0.1 up to, but not including, 0.2; 1 belongs to the last bar. In integers.
      const std::int64_t bin = c.hits * kHistogramBins / c.images;
      ++bins[static_cast<std::size_t>(std::min<std::int64_t>(bin, kHistogramBins - 1))];
    }
    const int most = std::max(1, *std::max_element(bins.begin(), bins.end()));
    Add("<figure><figcaption><b>", Escape(row.name), "</b> ",
        Escape(Shorten(row.text_template, 60)), "</figcaption><svg viewBox=\"0 0 250 150\">");
    for (int i = 0; i < kHistogramBins; ++i) {
      const int count = bins[static_cast<std::size_t>(i)];
      const double height = static_cast<double>(kHeight) * count / most;
      const double x = 5 + i * kBarStep;
      Add(absl::StrFormat(
          "<rect x=\"%.0f\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"#2563a8\"/>", x,
          130 - height, kBarStep - 3, height));
      if (count > 0) {
        Add(absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d</text>",
                            x + 10.5, 126 - height, count));
      }
    }
    Add("<line x1=\"5\" x2=\"245\" y1=\"130\" y2=\"130\" stroke=\"#5b6b7b\"/>"
        "<text x=\"5\" y=\"145\">0</text><text x=\"125\" y=\"145\" "
        "text-anchor=\"middle\">0.5</text>"
        "<text x=\"245\" y=\"145\" text-anchor=\"end\">1</text></svg></figure>\n");
  }

  // The worst classes and what they are taken for.
  std::vector<int> HeatClasses() const {
    std::set<int> chosen;
    for (const ConfusedPair& pair :
         summary_.confusion.MostConfused(std::numeric_limits<std::size_t>::max())) {
      if (chosen.size() + 2 > kHeatClasses) break;
      chosen.insert(pair.truth);
      chosen.insert(pair.predicted);
    }
    return {chosen.begin(), chosen.end()};
  }
  void HeatMap() {
    const std::vector<int> classes = HeatClasses();
    if (classes.empty()) return;
    constexpr int kCell = 32, kLeft = 180, kTop = 110;
    const int side = kCell * static_cast<int>(classes.size());
    Add("<h2>Confusion of the most confused classes</h2><figure><figcaption>", SummaryName(),
        "; a line is a true class, a column what it was taken for, in images</figcaption>",
        absl::StrFormat("<svg viewBox=\"0 0 %d %d\" style=\"max-width:%dpx\">", kLeft + side + 90,
                        kTop + side + 4, kLeft + side + 90));
    for (std::size_t i = 0; i < classes.size(); ++i) {
      const int place = static_cast<int>(i) * kCell + kCell / 2;
      const std::string name = Escape(Shorten(Class(classes[i]).text, 28));
      Add(absl::StrFormat("<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", kLeft - 8,
                          kTop + place + 4, name));
      Add(absl::StrFormat("<text transform=\"translate(%d,%d) rotate(-45)\">%s</text>",
                          kLeft + place, kTop - 8, Escape(Shorten(Class(classes[i]).text, 22))));
      for (std::size_t j = 0; j < classes.size(); ++j) HeatCell(classes, i, j);
    }
    Add("</svg></figure>\n");
  }
  void HeatCell(const std::vector<int>& classes, std::size_t i, std::size_t j) {
    constexpr int kCell = 32, kLeft = 180, kTop = 110;
    std::int64_t total = 0;
    for (const ClassAccuracy& c : summary_.confusion.PerClass()) {
      if (c.class_index == classes[i]) total = c.images;
    }
    const std::int64_t count = summary_.confusion.Count(classes[i], classes[j]);
    const double share = total == 0 ? 0 : static_cast<double>(count) / static_cast<double>(total);
    const int x = kLeft + static_cast<int>(j) * kCell, y = kTop + static_cast<int>(i) * kCell;
    // Blue on the diagonal, red beside it; a white cell is no image.
    Add(absl::StrFormat(
        "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" "
        "fill-opacity=\"%.3f\" stroke=\"#dde4ea\"/>",
        x, y, kCell, kCell, i == j ? "#2563a8" : "#c2452d", count == 0 ? 0 : 0.15 + 0.85 * share));
    if (count > 0) {
      Add(absl::StrFormat("<text x=\"%d\" y=\"%d\" text-anchor=\"middle\"%s>%d</text>",
                          x + kCell / 2, y + kCell / 2 + 4,
                          share > 0.5 ? " style=\"fill:#fff\"" : "", count));
    }
  }

  void Lists() {
    const auto worst = summary_.confusion.WorstClasses(kListed);
    if (worst.empty()) return;
    Add("<div class=\"two\"><div><h2>Worst classes</h2><table><tr><th>Class<th class=\"n\">Hits"
        "<th class=\"n\">Accuracy</tr>");
    for (const ClassAccuracy& c : worst) {
      Add("<tr><td>", Name(c.class_index),
          absl::StrFormat("<td class=\"n\">%d of %d<td class=\"n\">%.2f</tr>", c.hits, c.images,
                          c.accuracy()));
    }
    Add("</table></div><div><h2>Most confused</h2><table><tr><th>Class<th>taken for"
        "<th class=\"n\">Images</tr>");
    for (const ConfusedPair& pair : summary_.confusion.MostConfused(kListed)) {
      Add("<tr><td>", Name(pair.truth), "<td>", Name(pair.predicted), "<td class=\"n\">",
          pair.images, "</tr>");
    }
    Add("</table></div></div><p class=\"soft\">Both of ", SummaryName(), "</p>\n");
  }

  // Half mistakes of the summary row, as far as there are, spread evenly; the rest hits.
  std::vector<std::size_t> SampleImages() const {
    std::vector<std::size_t> wrong, right;
    for (std::size_t i = 0; i < summary_.predictions.size(); ++i) {
      const bool hit = summary_.predictions[i].top[0] == validation_.valid.images[i].class_index;
      (hit ? right : wrong).push_back(i);
    }
    std::vector<std::size_t> chosen;
    const auto spread = [&](const std::vector<std::size_t>& from, std::size_t count) {
      count = std::min(count, from.size());
      for (std::size_t i = 0; i < count; ++i) chosen.push_back(from[i * from.size() / count]);
    };
    spread(wrong, kSamples / 2);
    spread(right, kSamples - chosen.size());
    return chosen;
  }
  void Samples() {
    Add("<h2>Samples</h2><p class=\"soft\">First mistakes, then hits, of ", SummaryName(),
        "; the best class by each row of the table</p><div class=\"samples\">");
    for (const std::size_t i : SampleImages()) Sample(i);
    Add("</div>\n");
  }
  void Sample(std::size_t i) {
    const LabelledImage& image = validation_.valid.images[i];
    Add("<div class=\"sample\">", Picture(image.path), "<p><b>", Name(image.class_index),
        "</b></p>");
    for (const ValidationRow& row : validation_.rows) {
      const int best = row.predictions[i].top[0];
      const bool hit = best == image.class_index;
      Add("<p class=\"soft\"><span class=\"", hit ? "ok\">✓ " : "no\">✗ ", Name(best, 40),
          "</span> <span title=\"", Escape(row.text_template), "\">", Escape(row.name),
          "</span></p>");
    }
    Add("</div>\n");
  }
  static std::string Picture(const std::string& path) {
    const auto bytes = ReadFile(path, kMaxPictureBytes);
    if (!bytes.ok()) return "<p class=\"soft\">(picture too large to show)</p>";
    // Browsers go by the content; the type only says that it is a picture.
    return absl::StrCat("<img alt=\"\" src=\"data:image/jpeg;base64,", absl::Base64Escape(*bytes),
                        "\">");
  }

  void Failures() {
    if (validation_.failures.empty()) return;
    Add("<h2>Images that failed</h2><p class=\"soft\">", validation_.failures.size(),
        " images were left out of every row</p><table>");
    for (const FailedItem& item : validation_.failures) {
      Add("<tr><td>", Escape(item.name), "<td>", Escape(item.error), "</tr>");
    }
    Add("</table>\n");
  }

  const Validation& validation_;
  const ValidationRow& summary_;
  std::string html_;
};

}  // namespace

std::string ValidationHtml(const Validation& validation) { return Page(validation).Html(); }

}  // namespace siglip::cli
