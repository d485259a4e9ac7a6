for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[head.cellIndex].dataset.key;
    const rows = Array.from(body.rows, (row) => [key(row), row]);
    const numeric = rows.every(([text]) => text === "" || !isNaN(text));
    const order = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // empty cells stay last
      return down ? order(b, a) : order(a, b);
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows.map(([, row]) => row));
  });
}
