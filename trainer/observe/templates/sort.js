// A click on a heading sorts the table by that column, a second click the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const column = [...heading.parentElement.children].indexOf(heading);
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = document.querySelector("tbody");
    const value = (row) => row.children[column].dataset.value;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // what is unknown stays at the end
      const order = heading.dataset.kind === "text" ? a.localeCompare(b) : Number(a) - Number(b);
      return ascending ? order : -order;
    };
    body.append(...[...body.children].sort((a, b) => compare(value(a), value(b))));
  });
}
