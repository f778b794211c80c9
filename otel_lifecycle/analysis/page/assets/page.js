"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const color = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const palette = ["blue", "orange", "purple", "teal", "red", "green", "amber"];
  const outcomes = { completed: "blue", error: "red", client_disconnect: "purple" };
  const lines = ["solid", "dashed", "dotted"];

  const plain = (value, digits = 3) =>
    value == null ? "–"
      : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US")
        : String(+value.toPrecision(digits));
  const large = (value) =>
    value >= 1e6 ? plain(value / 1e6) + "M" : value >= 1e4 ? plain(value / 1e3) + "k" : plain(value);
  const last = data.step * data.steps;
  const moment = (point) => {
    const seconds = point * data.step;
    return last > 172800 ? plain(seconds / 86400) + " d"
      : last > 7200 ? plain(seconds / 3600) + " h"
      : last > 600 ? plain(seconds / 60) + " min" : plain(seconds) + " s";
  };

  const axis = (more) => ({
    axisLine: { show: false }, axisTick: { show: false },
    axisLabel: { color: color("soft"), fontSize: 12, hideOverlap: true },
    splitLine: { lineStyle: { color: color("grid") } },
    nameTextStyle: { color: color("soft"), fontSize: 12 },
    ...more,
  });
  const tooltip = (more) => ({
    renderMode: "richText", confine: true, backgroundColor: color("ink"), borderWidth: 0,
    textStyle: { color: color("card"), fontSize: 12 }, ...more,
  });
  const common = () => ({ animation: false, textStyle: { fontFamily: getComputedStyle(document.body).fontFamily } });

  const kinds = {
    time(spec) {
      const points = [...Array(data.steps).keys()];
      return {
        ...common(),
        aria: { enabled: true, label: { enabled: false }, decal: { show: Boolean(spec.stack) && spec.series.length > 1 } },
        grid: { left: 52, right: 14, top: spec.series.length > 1 ? 24 : 10, bottom: 24 },
        legend: {
          show: spec.series.length > 1, top: 0, right: 8, itemHeight: 8, itemWidth: 22,
          textStyle: { color: color("soft"), fontSize: 12 },
        },
        tooltip: tooltip({
          trigger: "axis", axisPointer: { type: "line", lineStyle: { color: color("soft"), type: "dashed" } },
          formatter: (found) => [
            moment(found[0].dataIndex),
            ...found.map((one) => `${one.seriesName}  ${plain(one.value)} ${spec.unit}`),
          ].join("\n"),
        }),
        xAxis: axis({ type: "category", data: points.map(moment), boundaryGap: Boolean(spec.stack), splitLine: { show: false } }),
        yAxis: axis(spec.log
          ? { type: "log", logBase: 2, axisLabel: { color: color("soft"), fontSize: 12, formatter: (value) => plain(value) } }
          : { type: "value", splitNumber: 3, max: spec.unit === "%" ? 100 : null, axisLabel: { color: color("soft"), fontSize: 12, formatter: large } }),
        series: spec.series.map((one, i) => ({
          name: one.name, type: spec.stack ? "bar" : "line", stack: spec.stack ? "all" : undefined,
          data: one.values, connectNulls: false, barCategoryGap: "12%",
          // A point without neighbours has no line: it is drawn as a dot.
          symbol: "circle", showSymbol: true, showAllSymbol: true,
          symbolSize: (_, { dataIndex: at }) => one.values[at - 1] == null && one.values[at + 1] == null ? 5 : 0,
          itemStyle: { color: color((spec.stack && outcomes[one.name]) || palette[i % palette.length]) },
          lineStyle: { width: 1.8, type: lines[i % lines.length] },
        })),
      };
    },
    curve(spec) {
      const low = spec.points[0][0], high = spec.points[spec.points.length - 1][0];
      const near = (value) => +value.toPrecision(2);
      return {
        ...common(),
        grid: { left: 48, right: 18, top: 14, bottom: 28 },
        tooltip: tooltip({
          trigger: "axis",
          formatter: (found) => `${(100 * found[0].value[1]).toFixed(1)} % at most ${plain(found[0].value[0])} ms`,
        }),
        xAxis: axis({
          type: "log", min: near(low * 0.95), max: near(Math.max(high, spec.target || 0) * 1.05),
          axisLabel: { color: color("soft"), fontSize: 12, hideOverlap: true, formatter: (value) => plain(value) },
          splitLine: { show: false },
        }),
        yAxis: axis({ type: "value", min: 0, max: 1, interval: 0.25, axisLabel: { color: color("soft"), fontSize: 12, formatter: (value) => 100 * value + " %" } }),
        series: [{
          type: "line", data: spec.points, showSymbol: false,
          lineStyle: { width: 2, color: color("blue") }, itemStyle: { color: color("blue") },
          markLine: spec.target == null ? undefined : {
            symbol: "none", silent: true, data: [{ xAxis: spec.target }],
            lineStyle: { color: color("green"), type: "dashed" },
            label: { formatter: `target ${plain(spec.target)} ms`, color: color("green"), position: "insideEndTop", rotate: 0, distance: [6, -4] },
          },
        }],
      };
    },
    strip(spec) {
      return {
        ...common(),
        grid: { left: Math.min(150, 16 + 7 * Math.max(...spec.rows.map((row) => row.split("/").pop().length))), right: 14, top: 4, bottom: 24 },
        tooltip: tooltip({ formatter: (one) => `${spec.rows[one.value[1]]} at ${moment(one.value[0])}\n${large(one.value[2])} tokens` }),
        visualMap: { show: false, min: 0, max: spec.high || 1, inRange: { color: [color("card"), color("blue")] } },
        xAxis: axis({ type: "category", data: [...Array(data.steps).keys()].map(moment), splitLine: { show: false } }),
        yAxis: axis({ type: "category", inverse: true, data: spec.rows, splitLine: { show: false }, axisLabel: { color: color("soft"), fontSize: 12, width: 134, overflow: "truncate", formatter: (name) => name.split("/").pop() } }),
        series: [{ type: "heatmap", data: spec.cells, progressive: 0, itemStyle: { borderWidth: spec.rows.length > 16 ? 0 : 1, borderColor: color("card") } }],
      };
    },
    density(spec) {
      const at = (cell) => spec.low + ((cell + 0.5) / spec.size) * (spec.high - spec.low);
      const shown = (cell) => spec.log ? plain(10 ** at(cell), 2) + " ms" : Math.round(100 * at(cell)) + " %";
      const most = Math.max(1, ...spec.cells.map((cell) => cell[2]));
      const round = spec.log
        ? [...Array(16).keys()].flatMap((power) => [1, 3].map((one) => one * 10 ** (power - 4)))
        : [0, 0.25, 0.5, 0.75, 1];
      const labels = new Map(round
        .map((value) => [Math.floor((((spec.log ? Math.log10(value) : value) - spec.low) / (spec.high - spec.low)) * spec.size), value])
        .map(([cell, value]) => [spec.log ? cell : Math.min(cell, spec.size - 1), spec.log ? plain(value) : 100 * value + " %"]));
      const category = (name) => axis({
        type: "category", data: [...Array(spec.size).keys()].map(shown), name, nameLocation: "middle",
        splitLine: { show: false },
        axisLabel: { color: color("soft"), fontSize: 12, interval: (cell) => labels.has(cell), formatter: (_, cell) => labels.get(cell), hideOverlap: true },
      });
      const cell = 1 / spec.size;
      const line = (shift, type) => [
        { coord: [Math.max(0, -shift) * spec.size, Math.max(0, shift) * spec.size] },
        { coord: [(Math.min(1, 1 - shift) - cell) * spec.size, (Math.min(1, 1 + shift) - cell) * spec.size], lineStyle: { type } },
      ];
      const guides = [line(0, "solid")];
      if (spec.band) guides.push(line(spec.band, "dashed"), line(-spec.band, "dashed"));
      return {
        ...common(),
        grid: { left: 74, right: 14, top: 10, bottom: 46 },
        tooltip: tooltip({ formatter: (one) => `${one.data.count} requests\n${spec.x} ≈ ${shown(one.value[0])}\n${spec.y} ≈ ${shown(one.value[1])}` }),
        visualMap: { show: false, dimension: 2, min: 0, max: Math.log(1 + most), inRange: { color: [color("grid"), color("blue")] } },
        xAxis: { ...category(spec.x), nameGap: 28 },
        yAxis: { ...category(spec.y), nameGap: 58 },
        series: [{
          type: "heatmap", progressive: 0,
          data: spec.cells.map(([x, y, count]) => ({ value: [x, y, Math.log(1 + count)], count })),
          markLine: { symbol: "none", silent: true, label: { show: false }, lineStyle: { color: color("soft"), width: 1 }, data: guides },
        }],
      };
    },
    bars(spec) {
      return {
        ...common(),
        grid: { left: 52, right: 14, top: 10, bottom: 24 },
        tooltip: tooltip({ formatter: (one) => `${one.name}: ${plain(one.value)} requests` }),
        xAxis: axis({ type: "category", data: spec.labels, splitLine: { show: false } }),
        yAxis: axis({ type: "value", splitNumber: 3, axisLabel: { color: color("soft"), fontSize: 12, formatter: large } }),
        series: [{ type: "bar", data: spec.values, barCategoryGap: "8%", itemStyle: { color: color("blue") } }],
      };
    },
  };

  const charts = [];
  for (const [place, spec] of Object.entries(data.charts)) {
    const host = document.getElementById(place);
    const chart = echarts.init(host, null, { renderer: "canvas" });
    charts.push({ host, chart, spec });
  }
  const draw = () => charts.forEach(({ chart, spec }) => chart.setOption(kinds[spec.kind](spec), true));
  draw();

  // One cursor over all charts of a group, moved by the pointer or by the arrow keys.
  document.querySelectorAll(".linked").forEach((group) => {
    const inside = charts.filter(({ host }) => group.contains(host));
    const readout = group.querySelector(".readout");
    const empty = readout.textContent;
    let point = null;
    const tell = () => {
      readout.textContent = point === null ? empty : [
        moment(point),
        ...inside.flatMap(({ host, spec }) => spec.series.map((one) =>
          `${host.getAttribute("aria-label").split(",")[0]} ${one.name} ${plain(one.values[point])}`)),
      ].join(" · ");
    };
    const move = (to, from) => {
      point = to;
      inside.forEach(({ chart }) => {
        if (chart === from) return;
        chart.dispatchAction(to === null ? { type: "hideTip" } : { type: "showTip", seriesIndex: 0, dataIndex: to });
      });
      tell();
    };
    inside.forEach(({ chart, host }) => {
      chart.getZr().on("mousemove", (event) => {
        const place = chart.convertFromPixel({ gridIndex: 0 }, [event.offsetX, event.offsetY]);
        const to = place && place[0] >= 0 && place[0] < data.steps ? Math.round(place[0]) : null;
        if (to !== point) move(to, chart);
      });
      host.addEventListener("mouseleave", () => move(null, null));
    });
    group.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      move(Math.min(data.steps - 1, Math.max(0, (point ?? (by > 0 ? -1 : data.steps)) + by)), null);
    });
  });

  document.querySelectorAll(".open button").forEach((button) => {
    button.addEventListener("click", () => {
      const details = button.closest("tbody").querySelector(".details");
      details.hidden = !details.hidden;
      button.setAttribute("aria-expanded", String(!details.hidden));
    });
  });
  document.querySelector(".open button")?.click();

  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); draw(); });
  system.addEventListener("change", () => { label(); draw(); });
  label();
  new ResizeObserver(() => charts.forEach(({ chart }) => chart.resize())).observe(document.body);
  document.body.dataset.ready = "true";
})();
